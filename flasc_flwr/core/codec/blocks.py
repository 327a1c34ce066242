"""Blocks: the runs of the vector whose support shares one code.

The density of a support varies over an adapter: at first B is zero, and the scale of A
differs from layer to layer. So each block has its code, and a new block starts
where the density changes by enough to pay for it.
"""

from __future__ import annotations

from itertools import pairwise
from math import log2

import numpy as np

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import Positions

SHORTEST = 256
"""Fewest entries of a block except the last, which bounds their number by N/256 + 1."""
LONGEST = (1 << 20) - 1
"""Most entries of a block: its length and count then fit into 3 bytes each."""

_PIECE = 1 << 16
_ROW_BITS = 48.0


def block_bounds(positions: Positions, size: int, layout: Layout | None) -> list[int]:
    """Choose the blocks of a vector.

    Starts from the tensors, in pieces of at most 65,536 entries, and joins neighbours
    from left to right while one code for both is cheaper than two and a row of the
    block table.

    Parameters
    ----------
    positions : NDArray[np.int64], shape (k,)
        The support.
    size : int
        N.
    layout : Layout, optional
        Where the tensors begin; by default, all pieces have the same length.

    Returns
    -------
    list[int]
        Ascending, from 0 to N: block i is ``bounds[i]:bounds[i + 1]``.
    """
    starts = {place.start for _, place in layout.slices()} if layout else set()
    edges = sorted(starts | set(range(0, size, _PIECE)) | {0, size})
    indices = np.searchsorted(positions, edges).tolist()
    bounds = [0]
    kept, cost = 0, 0.0
    for (start, end), (first, last) in zip(
        pairwise(edges), pairwise(indices), strict=True
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
    """Return the bits of a support of `kept` entries, independent of each other."""
    if kept in (0, length):
        return 0.0
    rest = length - kept
    return kept * log2(length / kept) + rest * log2(length / rest)
