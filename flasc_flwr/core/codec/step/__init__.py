"""The value format ``step``: one step for the payload, levels coded by context."""
