"""The body of a payload in the format ``step``."""

from __future__ import annotations

import struct
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Reader, pack_bits, unpack_bits
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.step import by_block, by_context
from flasc_flwr.core.codec.step.quantizer import (
    CENTRES,
    Levels,
    quantize,
    require_step,
)
from flasc_flwr.core.codec.step.shapes import Shapes
from flasc_flwr.core.layout import Layout, chunks
from flasc_flwr.core.sparsity import SparseVector

_HEAD = struct.Struct(f"<f{CENTRES}sB")

_MOST_BY_CONTEXT = 1 << 22
"""Longer vectors are coded by block, which is ten times as fast."""

_FEWEST_BY_CONTEXT = 17
"""Fewer entries are coded by block: contexts cost more than they can save."""

_MOST_BOTH_WAYS = 1 << 12
"""Up to so many entries, the shorter of both codings is taken: contexts cost a hundred
bytes, and save more than that only where large entries have a structure. Beyond that,
they save more in any vector with one, and trying both takes a tenth more time."""

_MOST_OCTAVES = 20.0
_TRIALS = 12
_UNUSED = 1 / 128
"""With room for more, finer steps are tried until this fraction of it is left."""


class Coding(IntEnum):
    """How the levels are coded."""

    BY_BLOCK = 0
    BY_CONTEXT = 1


def encode_body(
    sparse: SparseVector, layout: Layout | None, seed: int | None = None, room: int = 0
) -> bytes:
    """Code a sparse vector: step, centres, levels, signs; nothing if all are zero.

    With `room` for more bytes than that takes, the step is the finest that fits.
    """
    rounded = quantize(sparse, seed)
    best = _encode(rounded, sparse.size, layout)
    low, high = 0.0, _MOST_OCTAVES
    for _ in range(_TRIALS):
        if len(best) >= room * (1 - _UNUSED):
            break
        octaves = (low + high) / 2
        finer = quantize(sparse, seed, rounded.step * 2**-octaves)
        tried = _encode(finer, sparse.size, layout)
        if len(tried) > room:
            high = octaves
        else:
            low, best = octaves, max(best, tried, key=len)
    return best


def _encode(rounded: Levels, size: int, layout: Layout | None) -> bytes:
    """Code levels by context or by block."""
    count = len(rounded.positions)
    if not count:
        return b""
    by_contexts = count >= _FEWEST_BY_CONTEXT and size <= _MOST_BY_CONTEXT
    bodies = [_by_context(rounded, size, layout)] if by_contexts else []
    if not bodies or count <= _MOST_BOTH_WAYS:
        bodies.append(_by_block(rounded, size, layout))
    return min(bodies, key=len)


def _by_block(rounded: Levels, size: int, layout: Layout | None) -> bytes:
    coded = by_block.encode_levels(rounded.positions, rounded.levels, layout, size)
    return _joined(rounded, Coding.BY_BLOCK, coded, rounded.negative)


def _by_context(rounded: Levels, size: int, layout: Layout | None) -> bytes:
    shapes = Shapes.of(size, layout)
    coded, order = by_context.encode_levels(rounded.positions, rounded.levels, shapes)
    return _joined(rounded, Coding.BY_CONTEXT, coded, rounded.negative[order])


def _joined(
    rounded: Levels, coding: Coding, coded: bytes, negative: NDArray[np.bool_]
) -> bytes:
    head = _HEAD.pack(rounded.step, rounded.centres, coding)
    return head + coded + pack_bits(negative)


def decode_body(reader: Reader, size: int) -> SparseVector:
    """Read what :func:`encode_body` coded, of a vector of length N.

    Raises
    ------
    PayloadError
        If it is corrupt.
    """
    if not reader.left:
        return SparseVector(size, np.zeros(0, np.int64), np.zeros(0, np.float32))
    step, centres, coding = _HEAD.unpack(reader.take(_HEAD.size, "step"))
    if coding > max(Coding):
        raise PayloadError(f"step: unknown coding of levels {coding}")
    way = by_context if coding == Coding.BY_CONTEXT else by_block
    positions, levels = way.decode_levels(reader, size)
    count = len(positions)
    negative = unpack_bits(reader.take((count + 7) // 8, "signs"), count, "signs")
    rounded = Levels(positions, negative, levels, require_step(step), centres)
    if coding == Coding.BY_BLOCK:
        return SparseVector(size, positions, rounded.values())
    values = rounded.values()
    # Entries in any order, each at its own position. What follows is faster than to
    # sort them, above all on small processors.
    kept, dense = np.zeros(size, np.bool_), np.empty(size, np.float32)
    for chunk in chunks(count):
        kept[positions[chunk]] = True
        dense[positions[chunk]] = values[chunk]
    del positions, levels, negative, rounded, values
    ascending = np.flatnonzero(kept)
    return SparseVector(size, ascending, dense.take(ascending))
