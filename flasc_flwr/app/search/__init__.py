"""Search for the best rank and density within a byte budget."""
