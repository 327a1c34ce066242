"""Rate-distortion curves: bytes against the squared error that they leave.

A coder with a dial (a density, a step, a number of bits) makes a curve: the points that
no cheaper one beats. What it needs for a given error is read from the curve between two
measured points, never beyond them. Only numpy is imported, so that coders
that need another environment measure with the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

import numpy as np

METRICS = ("whole", "tensors")
"""The error of the whole vector, or its mean over the tensors."""

GAP = 1.5


@dataclass(frozen=True)
class Point:
    """What a coder needs for a vector at one setting of its dial.

    Attributes
    ----------
    vector : str
        The vector.
    coder, variant, setting : str
        The coder, which form of it, and where its dial stood.
    bytes : int
        Length of what would be sent.
    whole : float
        ``||x - y||**2 / ||x||**2`` of the decoded vector y.
    tensors : float
        The mean of the same over the tensors that are not zero.
    """

    vector: str
    coder: str
    variant: str
    setting: str
    bytes: int
    whole: float
    tensors: float


def errors(
    tensors: Sequence[np.ndarray], decoded: Sequence[np.ndarray]
) -> tuple[float, float]:
    """Return the normalised squared error: of the whole vector, and over tensors."""
    lost, total = [], []
    for x, y in zip(tensors, decoded, strict=True):
        exact = x.ravel().astype(np.float64)
        difference = exact - y.ravel()
        lost.append(difference @ difference)
        total.append(exact @ exact)
    each = [part / whole for part, whole in zip(lost, total, strict=True) if whole]
    return float(sum(lost) / sum(total)), float(np.mean(each))


def frontier(points: Iterable[Point], metric: str) -> list[Point]:
    """Return the points that no cheaper point beats, the cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, getattr(p, metric))):
        least = getattr(kept[-1], metric) if kept else 1.0
        if 0 < getattr(point, metric) < least:
            kept.append(point)
    return kept


def bytes_at(error: float, points: Iterable[Point], metric: str) -> float | None:
    """Return the bytes that the coder of these points needs for an error.

    Between two points, log bytes are linear in log error. Where they are more than
    `GAP` apart in bytes, the better one counts: a stream that was measured, with less
    error. So does the coarsest point for all larger errors. None if no point has so
    small an error.
    """
    curve = [(p.bytes, getattr(p, metric)) for p in frontier(points, metric)]
    if curve and error >= curve[0][1]:
        return curve[0][0]
    for (fewer, worse), (more, better) in pairwise(curve):
        if better <= error <= worse:
            if more > GAP * fewer and error < worse:
                return more
            share = log(worse / error) / log(worse / better)
            return exp(log(fewer) + share * log(more / fewer))
    return None
