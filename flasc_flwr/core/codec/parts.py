"""A payload of parts: consecutive pieces of the vector, each in its own value format.

The head of an adapter may so travel in another format than the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.body import Body
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Layout, Role, Tensor
from flasc_flwr.core.sparsity import SparseVector

MARK = "+head="
"""Between the value format of most entries and that of the head: ``int4+head=int8``."""

_MOST_PARTS = 64

Find = Callable[[int], Body]
"""Returns the body of a format's number, or raises PayloadError."""


def of_formats(values: str, head: str) -> str:
    """Return the value format of an adapter whose head has another one.

    Parameters
    ----------
    values : str
        Value format of all but the head.
    head : str
        That of the head; ``auto`` is the same.
    """
    return values if head in ("auto", values) else f"{values}{MARK}{head}"


def split(values: str) -> tuple[str, str]:
    """Return the value format of most entries, and that of the head."""
    most, _, head = values.partition(MARK)
    return most, head or most


def require_head(values: str, layout: Layout) -> None:
    """Check that an adapter has a head, if there is a value format of the head.

    Raises
    ------
    ValueError
        If it has none: the format would have no effect.
    """
    _, mark, head = values.partition(MARK)
    if mark and not any(map(_is_head, layout.tensors)):
        raise ValueError(
            "head-format must be 'auto' where the adapter has no head, got "
            f"{head!r}; use value-format instead"
        )


def pieces(layout: Layout) -> list[tuple[bool, Layout]]:
    """Return runs of tensors: whether they are the head's, and their layout.

    If there are more than 64 runs, everything is one.
    """
    runs = [
        (head, Layout(tuple(tensors)))
        for head, tensors in groupby(layout.tensors, _is_head)
    ]
    return runs if len(runs) <= _MOST_PARTS else [(False, layout)]


def _is_head(tensor: Tensor) -> bool:
    return tensor.role is Role.HEAD


def encode_parts(
    sparse: SparseVector,
    layout: Layout,
    numbers: tuple[int, int],
    bodies: tuple[Body, ...],
    seed: int | None,
    room: int,
) -> bytes:
    """Code each run of tensors by itself.

    Parameters
    ----------
    sparse : SparseVector
        The vector.
    layout : Layout
        Its layout.
    numbers : tuple[int, int]
        Numbers of the value formats of most entries, and of the head.
    bodies : tuple[Body, ...]
        The value formats.
    seed : int or None
        Seed of stochastic rounding.
    room : int
        Bytes that all of it may take, where a format has a use for more: the longest
        run that is not the head gets what the others leave.
    """
    runs = [
        (inner, numbers[head], part)
        for head, inner, part in _cut(sparse, pieces(layout))
    ]
    coded = [
        bodies[number].encode(part, inner, seed, 0) for inner, number, part in runs
    ]
    longest = max(
        (i for i, run in enumerate(runs) if run[1] == numbers[0]),
        key=lambda i: runs[i][0].size,
        default=None,
    )
    if longest is not None and room:
        inner, number, part = runs[longest]
        others = sum(map(len, coded)) - len(coded[longest])
        left = room - others - (len(runs) + 1) * _LONGEST_ROW
        if left > 0:
            coded[longest] = bodies[number].encode(part, inner, seed, left)
    rows = b"".join(
        varint(inner.size) + bytes([number]) + varint(len(body))
        for (inner, number, _), body in zip(runs, coded, strict=True)
    )
    return bytes([len(runs)]) + rows + b"".join(coded)


_LONGEST_ROW = 16
"""Bytes of a row of the table of parts, at most."""


def _cut(
    sparse: SparseVector, runs: list[tuple[bool, Layout]]
) -> Iterator[tuple[bool, Layout, SparseVector]]:
    """Yield the entries of each run, counted from its start."""
    start = 0
    for head, inner in runs:
        stop = start + inner.size
        first, last = np.searchsorted(sparse.positions, [start, stop])
        positions = sparse.positions[first:last] - start
        yield (
            head,
            inner,
            SparseVector(inner.size, positions, sparse.values[first:last]),
        )
        start = stop


def decode_parts(reader: Reader, size: int, find: Find) -> SparseVector:
    """Read parts to the end of a payload.

    Raises
    ------
    PayloadError
        If they do not add up to N, or one is corrupt.
    """
    (count,) = reader.take(1, "number of parts")
    if not 1 <= count <= _MOST_PARTS:
        raise PayloadError(f"number of parts must be 1 to {_MOST_PARTS}, got {count}")
    rows, total = [], 0
    for _ in range(count):
        length = reader.varint("length of a part", longest=10)
        (number,) = reader.take(1, "value format of a part")
        rows.append((length, find(number), reader.varint("bytes of a part")))
        total += length
    # Before anything is decoded: what takes memory is bounded by N.
    if total != size:
        raise PayloadError(f"parts have {total} entries, expected {size}")
    positions, values, start = [], [], 0
    for length, body, taken in rows:
        inner = Reader(reader.take(taken, "part"))
        part = body.decode(inner, length)
        inner.finish("part")
        positions.append(part.positions + start)
        values.append(part.values)
        start += length
    return SparseVector(size, np.concatenate(positions), np.concatenate(values))
