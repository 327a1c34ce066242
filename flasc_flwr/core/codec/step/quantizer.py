"""The quantizer of the format ``step``: values as multiples of one step.

A uniform quantizer with a dead zone and an entropy code is within a quarter of a bit of
the rate-distortion bound (Gish & Pierce, 1968; Sullivan, 1996). The smallest entry kept
defines the step: what is worth its position is worth the two or three bits that say how
large it is, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import set_bit
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Vector, chunks
from flasc_flwr.core.sparsity import Positions, SparseVector

CENTRES = 3
"""Levels 1 to this many are decoded to the mean of what was rounded to them."""

HIGHEST_LEVEL = (1 << 24) - 1
"""Levels are exact in float32."""

_SMALLEST = 0.6
"""The smallest value kept, in steps: half a step, and a dead zone of a tenth."""

_FINEST = 0.35
"""The finest step, in root mean squares of the vector. At density 1, where the smallest
value says nothing, it is the step: the squared error is then about a hundredth."""

_LARGEST = np.finfo(np.float32).max
_CENTRE_STEPS = 256
_MIDDLE = bytes([128] * CENTRES)
"""Centres that are the levels themselves."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Values as multiples of a step.

    Attributes
    ----------
    positions : NDArray[np.int64], shape (k,)
        The support, ascending.
    negative : NDArray[np.bool_], shape (k,)
        The signs.
    levels : NDArray[np.int32], shape (k,)
        The magnitudes in steps, 1 to `HIGHEST_LEVEL`.
    step : float
        The step, a float32 above 0.
    centres : bytes
        For each of the first levels what it stands for: level + (c - 128) / 256.
    """

    positions: Positions
    negative: NDArray[np.bool_]
    levels: NDArray[np.int32]
    step: float
    centres: bytes

    def values(self) -> Vector:
        """Return the values, float32 of shape (k,)."""
        # The distance of each level's centre; the last entry is for all higher levels.
        distances = np.zeros(CENTRES + 2, np.float32)
        distances[1:-1] = [(each - 128) / _CENTRE_STEPS for each in self.centres]
        sizes = self.levels.astype(np.float32)
        for chunk in chunks(len(sizes)):
            sizes[chunk] += distances.take(self.levels[chunk], mode="clip")
        with np.errstate(over="ignore"):
            sizes *= np.float32(self.step)
        np.minimum(sizes, _LARGEST, out=sizes)
        set_bit(sizes.view(np.uint32), self.negative, 31)
        return sizes


def quantize(
    sparse: SparseVector, seed: int | None = None, step: float | None = None
) -> Levels:
    """Round the values of a sparse vector to multiples of a step.

    Entries that are rounded to zero are left out.

    Parameters
    ----------
    sparse : SparseVector
        The vector, with finite values.
    seed : int, optional
        Rounds stochastically: up with a probability of the fraction cut off, so that
        the expected value of what is kept is exact. By default to nearest.
    step : float, optional
        The step, a float32 above 0. By default the smallest value kept defines it.
    """
    entries = _Entries(sparse.positions, sparse.values, np.abs(sparse.values))
    if not entries.sizes.all():
        entries = entries.where(entries.sizes > 0)
    sizes = entries.sizes
    if not len(sizes):
        return entries.rounded(sizes.astype(np.int32), 1.0, _MIDDLE)
    smallest, largest = float(sizes.min()), float(sizes.max())
    if step is None:
        # float32 squared neither over- nor underflows in float64.
        power = float(np.square(sizes, dtype=np.float64).sum()) / sparse.size
        step = max(smallest / _SMALLEST, _FINEST * power**0.5)
    bounds = np.finfo(np.float32).smallest_subnormal, _LARGEST
    step = float(np.float32(np.clip(max(step, largest / HIGHEST_LEVEL), *bounds)))
    # A rounded quotient must not leave out the value that defines the step.
    if smallest < 0.999 * _SMALLEST * step:
        entries = entries.where(sizes >= np.float32(_SMALLEST * step))
    sizes = np.divide(entries.sizes, np.float32(step), dtype=np.float32)
    if seed is None:
        levels = np.empty(len(sizes), np.int32)
        for chunk in chunks(len(sizes)):
            levels[chunk] = np.maximum(np.rint(sizes[chunk]), 1)
        centres = _centres(levels, sizes)
    else:
        noise = np.random.default_rng(seed).random(len(sizes), np.float32)
        levels = np.floor(sizes + noise).astype(np.int32)
        entries, levels = entries.where(levels > 0), levels[levels > 0]
        centres = _MIDDLE
    np.minimum(levels, HIGHEST_LEVEL, out=levels)
    return entries.rounded(levels, step, centres)


@dataclass(frozen=True, eq=False)
class _Entries:
    positions: Positions
    values: Vector
    sizes: Vector

    def where(self, kept: NDArray[np.bool_]) -> _Entries:
        return _Entries(self.positions[kept], self.values[kept], self.sizes[kept])

    def rounded(self, levels: NDArray[np.int32], step: float, centres: bytes) -> Levels:
        negative = np.signbit(self.values)
        return Levels(self.positions, negative, levels, step, centres)


def _centres(levels: NDArray[np.int32], sizes: Vector) -> bytes:
    """Return the mean of each of the first levels, in 1/256 from the level."""
    codes = []
    for level in range(1, CENTRES + 1):
        own = sizes[levels == level]
        mean = float(own.sum(dtype=np.float64)) / len(own) if len(own) else level
        codes.append(min(max(round(_CENTRE_STEPS * (mean - level)) + 128, 0), 255))
    return bytes(codes)


def require_step(step: float) -> float:
    """Return a step that was read.

    Raises
    ------
    PayloadError
        If it is not a finite number above 0.
    """
    if not 0 < step <= _LARGEST:
        raise PayloadError("step: it is not a finite number above 0")
    return step
