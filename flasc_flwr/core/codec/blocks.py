"""Blocks: the runs of the vector whose support is coded alike.

A mask is seldom even over an adapter: at the start B is zero, and A's scale differs
from layer to layer. Each block therefore has a code of its own, and a block ends
where the density of the mask changes enough to pay for one more.
"""

from __future__ import annotations

from itertools import pairwise
from math import log2

import numpy as np

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import Positions

SHORTEST = 256
"""Entries of a block, but for the last: so the number of blocks stays below N/256."""
LONGEST = (1 << 20) - 1
"""Most entries of a block: its length and count then take 3 bytes each at most."""

_PIECE = 1 << 16
_ROW_BITS = 48.0


def cut(positions: Positions, size: int, layout: Layout | None) -> list[int]:
    """Choose the blocks of a vector.

    Tensors, cut where they are long, are joined from left to right as long as one
    code for both is cheaper than two and a row of the block table.

    Parameters
    ----------
    positions : NDArray[np.int64], shape (k,)
        The support.
    size : int
        N.
    layout : Layout, optional
        Where the tensors begin; without it the pieces are of equal length.

    Returns
    -------
    list[int]
        Ascending bounds, from 0 to N: block i is ``bounds[i]..bounds[i + 1]``.
    """
    starts = {place.start for _, place in layout.slices()} if layout else set()
    edges = sorted(starts | set(range(0, size, _PIECE)) | {0, size})
    ranks = np.searchsorted(positions, edges).tolist()
    bounds = [0]
    kept, cost = 0, 0.0
    for (start, end), (first, last) in zip(
        pairwise(edges), pairwise(ranks), strict=True
    ):
        own = _entropy(end - start, last - first)
        length = end - bounds[-1]
        together = _entropy(length, kept + last - first)
        short = start - bounds[-1] < SHORTEST
        if (
            start
            and not short
            and (together > cost + own + _ROW_BITS or length > LONGEST)
        ):
            bounds.append(start)
            kept, together = 0, own
        kept, cost = kept + last - first, together
    return [*bounds, size] if size else bounds


def _entropy(length: int, kept: int) -> float:
    """Return the bits that an even mask of `kept` out of `length` needs."""
    if kept in (0, length):
        return 0.0
    rest = length - kept
    return kept * log2(length / kept) + rest * log2(length / rest)
