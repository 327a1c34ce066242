"""The most bytes that a payload with one entry may take."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.parts import pieces, split
from flasc_flwr.core.codec.payload import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector

_WIDEST = np.array([np.pi], np.float32)
"""In every value format, no other value takes more bytes if it is the only one."""


def most_bytes_of_one_entry(
    layout: Layout, values: str, *, carry_layout: bool = False
) -> int:
    """Return the most bytes of a payload with one entry, wherever it lies.

    Any value counts. Payloads without an entry never take more.

    Parameters
    ----------
    layout : Layout
        Layout of the vector, of size N.
    values : str
        Value format, as for :func:`.encode`.
    carry_layout : bool
        Whether the payload carries the layout. If not, it may also be one that has no
        layout, such as an update on a support that the server knows.
    """
    lengths = [0]
    for known in (layout,) if carry_layout else (layout, None):
        for position in _costliest(layout.size, known, values):
            one = SparseVector(layout.size, np.array([position], np.int64), _WIDEST)
            payload = encode(one, values, layout=known, carry_layout=carry_layout)
            lengths.append(len(payload))
    return max(lengths)


def _costliest(size: int, layout: Layout | None, values: str) -> list[int]:
    """Return positions of which one is where a single entry takes the most bytes.

    A single entry never makes another block pay, so that the blocks do not depend on
    it, and other blocks have the same bytes wherever it is. In its own one, the bytes
    grow with the gap before it, and so with the block; but a bitmap of three entries
    takes less than a gap at its start.
    """
    most, head = split(values)
    runs: list[tuple[int, Layout | None]] = [(size, layout)]
    if layout is not None and most != head:
        runs = [(inner.size, inner) for _, inner in pieces(layout)]
    found, start = [], 0
    for length, inner in runs:
        bounds = block_bounds(np.zeros(1, np.int64), length, inner)
        blocks = [(end - begin, begin, end) for begin, end in pairwise(bounds)]
        for _, begin, end in sorted(blocks)[-1:]:
            found += [start + begin, start + end - 1]
        start += length
    return found
