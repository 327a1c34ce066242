"""The maths, in numpy: pure functions and small frozen dataclasses."""
