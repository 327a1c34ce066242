"""Sparse vectors, and top-k: the selection of the largest entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector, chunks
from flasc_flwr.core.ranges import fraction

Positions = NDArray[np.int64]
_Run = tuple[Positions, NDArray[np.uint32]]

DENSITY = fraction("(0, 1]")
"""Range of a density, the fraction of entries kept."""

_SIGN = np.uint32(0x7FFFFFFF)
_LARGEST_FINITE = 0x7F7FFFFF
_SAMPLE_STEP = 127
_RUN_LENGTH = 1 << 17


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
        If sizes, dtypes or positions are inconsistent.
    """

    size: int
    positions: Positions
    values: Vector

    def __post_init__(self) -> None:
        """Check that sizes, dtypes and positions are consistent."""
        if self.positions.dtype != np.int64 or self.values.dtype != np.float32:
            raise ValueError(
                "positions must be int64 and values float32, got "
                f"{self.positions.dtype} and {self.values.dtype}"
            )
        if self.positions.ndim != 1 or self.positions.shape != self.values.shape:
            raise ValueError(
                "positions and values must be vectors of one length, got shapes "
                f"{self.positions.shape} and {self.values.shape}"
            )
        if len(self.positions) == 0:
            return
        if self.positions[0] < 0 or self.positions[-1] >= self.size:
            raise ValueError(f"positions lie outside 0..{self.size - 1}")
        if np.any(self.positions[1:] <= self.positions[:-1]):
            raise ValueError("positions are not strictly ascending")

    @classmethod
    def of_dense(cls, vector: Vector) -> SparseVector:
        """Return all entries of a vector of shape (N,), zeros included."""
        return cls(len(vector), np.arange(len(vector)), vector)

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

    The selection is global over the vector, as in FLASC's code (``int(numel *
    density)``, no quota per tensor). Among equal magnitudes the lowest positions are
    kept, so that all machines agree. Zeros are never kept: the result has fewer than k
    entries if the vector has fewer non-zeros.

    Parameters
    ----------
    vector : NDArray[np.float32], shape (N,)
        The vector.
    density : float
        Fraction to keep, in (0, 1].

    Raises
    ------
    ValueError
        If the density is out of range, or the vector has NaN or infinity, which would
        compare as larger than every number.
    """
    density = DENSITY.require("density", density)
    vector = np.ascontiguousarray(vector, np.float32)
    # Without the sign bit, float32 values order like the integers of the same bits, and
    # NaN and infinity lie above all finite numbers.
    bits = vector.view(np.uint32)
    size = len(bits)
    k = min(size, max(1, floor(size * density)))
    if k == size:
        return _not_zero(vector)
    runs = _at_least(bits, _floor_guess(bits, k))
    if sum(len(kept) for _, kept in runs) < k:
        runs = _at_least(bits, 1)
    magnitudes = np.concatenate([kept for _, kept in runs])
    magnitudes &= _SIGN
    _require_finite(vector, magnitudes)
    k = min(k, len(magnitudes))
    chosen = _largest(runs, magnitudes, k)
    del magnitudes
    positions, kept = np.empty(k, np.int64), np.empty(k, np.uint32)
    done = 0
    for places, found in chosen:
        positions[done : done + len(places)] = places
        kept[done : done + len(places)] = found
        done += len(places)
    return SparseVector(size, positions, kept.view(np.float32))


def _not_zero(vector: Vector) -> SparseVector:
    """Keep all entries but zeros: nothing is ranked, which would take more memory."""
    flags = np.empty(len(vector), np.bool_)
    for chunk in chunks(len(vector)):
        magnitudes = vector[chunk].view(np.uint32) & _SIGN
        _require_finite(vector, magnitudes)
        np.not_equal(magnitudes, 0, out=flags[chunk])
    positions = np.flatnonzero(flags).astype(np.int64, copy=False)
    return SparseVector(len(vector), positions, vector.take(positions))


def _require_finite(vector: Vector, magnitudes: NDArray[np.uint32]) -> None:
    """Raise ValueError if some magnitudes of a vector are not finite."""
    if magnitudes.max(initial=0) > _LARGEST_FINITE:
        first = int(np.argmax(~np.isfinite(vector)))
        raise ValueError(
            f"vector holds {vector[first]} at position {first}: all entries must be "
            "finite"
        )


def _floor_guess(bits: NDArray[np.uint32], k: int) -> int:
    """Estimate from a sample a magnitude that k entries or a few more reach."""
    sample = bits[::_SAMPLE_STEP] & _SIGN
    expected = len(sample) * k / len(bits) if len(bits) else 0.0
    place = ceil(expected + 4 * sqrt(expected) + 8)
    if place >= len(sample):
        return 1
    return max(1, int(np.partition(sample, len(sample) - place)[len(sample) - place]))


def _at_least(bits: NDArray[np.uint32], floor_magnitude: int) -> list[_Run]:
    """Return where the magnitude reaches a floor above zero, and the bits there.

    Run by run, so that temporaries stay in the processor's cache and the allocator
    needs no new pages.
    """
    magnitude = np.zeros(_RUN_LENGTH, np.uint32)
    reached = np.zeros(_RUN_LENGTH, np.bool_)
    runs = [(np.zeros(0, np.int64), np.zeros(0, np.uint32))]
    for start in range(0, len(bits), _RUN_LENGTH):
        run = bits[start : start + _RUN_LENGTH]
        magnitude[len(run) :] = 0
        np.bitwise_and(run, _SIGN, out=magnitude[: len(run)])
        np.greater_equal(magnitude, np.uint32(floor_magnitude), out=reached)
        found = _true_at(reached)
        kept = run.take(found)
        found += start
        runs.append((found, kept))
    return runs


def _true_at(flags: NDArray[np.bool_]) -> Positions:
    """Return the positions of the true flags; their number is a multiple of 8."""
    if 8 * np.count_nonzero(flags) > len(flags):
        return np.flatnonzero(flags).astype(np.int64, copy=False)
    # If few flags are true, each costs numpy a mispredicted branch. Among the groups of
    # eight that have any, enough are true to avoid that.
    eights = flags.view(np.uint64)
    groups = np.flatnonzero(eights != 0)
    within = np.flatnonzero(eights.take(groups).view(np.bool_))
    found = groups.take(within >> 3).astype(np.int64, copy=False)
    found <<= 3
    found |= within & 7
    return found


def _largest(
    runs: list[_Run], magnitudes: NDArray[np.uint32], k: int
) -> Iterator[_Run]:
    """Return what remains of each run if only the k largest entries are kept.

    Reorders `magnitudes`, those of all runs, and empties `runs` on the way: they take
    as much memory as the result.
    """
    if len(magnitudes) == k:
        return _emptied(runs)
    cut = len(magnitudes) - k
    magnitudes.partition(cut)
    threshold = magnitudes[cut]
    equal = k - int(np.count_nonzero(magnitudes[cut:] > threshold))
    return _from(runs, threshold, equal)


def _emptied(runs: list[_Run]) -> Iterator[_Run]:
    """Yield the runs in order, and take them out of the list."""
    runs.reverse()
    while runs:
        yield runs.pop()


def _from(runs: list[_Run], threshold: np.uint32, equal: int) -> Iterator[_Run]:
    """Yield of each run what is above a magnitude, and the first `equal` that have it.

    It empties the list.
    """
    for positions, kept in _emptied(runs):
        own = kept & _SIGN
        chosen = own >= threshold
        level = np.flatnonzero(own == threshold)
        chosen[level[equal:]] = False
        equal = max(0, equal - len(level))
        places = np.flatnonzero(chosen)
        yield positions.take(places), kept.take(places)
