"""Sparse vectors, and the choice of the entries that are worth sending."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.layout import Vector
from flasc_flwr.ranges import number

Positions = NDArray[np.int64]

DENSITY = number("(0, 1]")
"""What a density may be: the fraction of the entries that are kept."""

_SIGN = np.uint32(0x7FFFFFFF)
_LARGEST_FINITE = 0x7F7FFFFF


@dataclass(frozen=True, eq=False)
class SparseVector:
    """The entries kept of a vector: `values` at ascending `positions` below `size`.

    Attributes
    ----------
    size : int
        N, the length of the dense vector.
    positions : NDArray[np.int64], shape (k,)
        The support, strictly ascending.
    values : NDArray[np.float32], shape (k,)
        The values there.

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

    size: int
    positions: Positions
    values: Vector

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if self.positions.dtype != np.int64 or self.values.dtype != np.float32:
            raise ValueError(
                "positions are int64 and values float32, got "
                f"{self.positions.dtype} and {self.values.dtype}"
            )
        if self.positions.ndim != 1 or self.positions.shape != self.values.shape:
            raise ValueError(
                "positions and values are vectors of one length, got shapes "
                f"{self.positions.shape} and {self.values.shape}"
            )
        if len(self.positions) == 0:
            return
        if self.positions[0] < 0 or self.positions[-1] >= self.size:
            raise ValueError(f"positions lie outside 0..{self.size - 1}")
        if np.any(self.positions[1:] <= self.positions[:-1]):
            raise ValueError("positions are not strictly ascending")

    @property
    def kept(self) -> int:
        """k, the number of entries kept."""
        return len(self.positions)

    def densify(self) -> Vector:
        """Return the float32 vector of length `size`, zero off the support."""
        dense = np.zeros(self.size, np.float32)
        dense[self.positions] = self.values
        return dense


def top_k(vector: Vector, density: float) -> SparseVector:
    """Keep the ``max(1, floor(N * density))`` entries of largest magnitude.

    One global choice over the whole vector, as in FLASC's code (``int(numel *
    density)``, no quota per tensor). Of equal magnitudes the lower position is
    kept, so that every machine chooses alike. Entries that are exactly zero are
    never kept: fewer than k entries come back where the vector has fewer non-zeros.
    With density 1 that is the whole vector.

    Parameters
    ----------
    vector : NDArray[np.float32], shape (N,)
        What to choose from.
    density : float
        Fraction to keep, in (0, 1].

    Raises
    ------
    ValueError
        If the density is out of range, or the vector holds NaN or infinity, which
        would sort above every number.
    """
    density = DENSITY.require("density", density)
    vector = np.ascontiguousarray(vector, np.float32)
    # Without its sign bit a float32 orders like the integer of the same bits, and
    # NaN and infinity lie above every finite number.
    magnitude = vector.view(np.uint32) & _SIGN
    size = len(vector)
    if size and magnitude.max() > _LARGEST_FINITE:
        first = int(np.argmax(magnitude > _LARGEST_FINITE))
        raise ValueError(
            f"vector holds {vector[first]} at position {first}: only finite "
            "numbers can be ranked by magnitude"
        )
    k = min(size, max(1, floor(size * density)))
    positions = np.flatnonzero(magnitude)
    if len(positions) > k:
        positions = _largest(magnitude, k)
    positions = positions.astype(np.int64, copy=False)
    return SparseVector(size, positions, vector[positions])


def _largest(magnitude: NDArray[np.uint32], k: int) -> NDArray[np.intp]:
    """Return the ascending positions of the k largest, lower positions first."""
    cut = len(magnitude) - k
    threshold = np.partition(magnitude, cut)[cut]
    above = np.flatnonzero(magnitude > threshold)
    level = np.flatnonzero(magnitude == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, level]))
