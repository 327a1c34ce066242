"""Links between namespaces, a federation on them, and what it measured."""
