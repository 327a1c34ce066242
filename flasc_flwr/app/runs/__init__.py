"""Making runs: one in this process, or many side by side."""
