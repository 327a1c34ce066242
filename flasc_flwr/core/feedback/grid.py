"""Grids: the numbers that a reference consists of.

A reference on the grid of bfloat16 can be sent whole at two bytes an entry or less, and
exactly. The server's own vector stays as fine as it is: what the grid cannot hold stays
in the difference between the two, and is sent once it has grown to a step of the grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.formats import FORMATS, Quantized
from flasc_flwr.core.layout import Vector, chunks

GRIDS = ("float32", "bfloat16")
"""Value formats that may be a grid: they round each value by itself."""

_BFLOAT16 = next(form for form in FORMATS if form.name == "bfloat16")


def on_grid(vector: Vector, grid: str) -> Vector:
    """Return a vector rounded to a grid, ties to even; without -0."""
    if grid == "float32":
        return vector
    rounded = np.empty(len(vector), np.float32)
    for chunk in chunks(len(vector)):
        rounded[chunk] = _BFLOAT16.dequantize(_BFLOAT16.quantize(vector[chunk], None))
    rounded += np.float32(0)
    return rounded


def halves(vector: Vector) -> NDArray[np.uint16]:
    """Return the bits of a vector in bfloat16, to which it is rounded."""
    rounded = _BFLOAT16.quantize(np.ascontiguousarray(vector), None)
    bits: NDArray[np.uint16] = rounded.magnitudes.astype(np.uint16)
    bits |= rounded.negative.astype(np.uint16) << 15
    return bits


def of_halves(bits: NDArray[np.uint16]) -> Vector:
    """Return the vector that some bits in bfloat16 stand for."""
    magnitudes = bits & np.uint16(0x7FFF)
    return _BFLOAT16.dequantize(Quantized(bits >> 15 != 0, magnitudes))
