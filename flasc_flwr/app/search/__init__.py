"""The search for a rank and a density within a byte budget."""
