"""The clients as the server sees them: who takes part, and what they reply."""
