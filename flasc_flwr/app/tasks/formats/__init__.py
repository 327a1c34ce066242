"""Files of rows, read without guessing."""
