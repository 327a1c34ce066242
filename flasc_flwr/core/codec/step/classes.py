"""The entries of each class as a stream: which of them are not zero, and their levels.

A sparse class is the gaps between its entries that are not zero, Rice coded, and their
levels. In a dense class zero is a level like any other, and no gap is coded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import (
    Integers,
    Reader,
    pack,
    pack_unary,
    packed_length,
    unpack,
    unpack_unary,
    varint,
)
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.step.contexts import CLASSES
from flasc_flwr.core.codec.step.symbols import SYMBOLS, symbols_of

_MOST_WIDTH = 31
_DENSE, _OWN_TABLE = 1 << 5, 1 << 6
_TABLE_BITS = 6.0
_WORTH_ALL = 1.03

_GAPS = "gaps"


@dataclass(frozen=True, eq=False)
class ClassStream:
    """One class.

    Attributes
    ----------
    number : int
        The class.
    dense : bool
        Whether zeros are coded as levels.
    width : int
        The Rice parameter of the gaps; 0 in a dense class.
    count : int
        Number of levels coded: k entries, or all n of a dense class.
    own_table : bool
        Whether a table of frequencies begins with it, or it shares the one before.
    gaps : integers, shape (count,)
        Entries skipped before each that is not zero; empty in a dense class.
    symbols : NDArray[np.uint16], shape (count,)
        The levels' symbols.
    """

    number: int
    dense: bool
    width: int
    count: int
    own_table: bool
    gaps: Integers = field(default_factory=lambda: np.zeros(0, np.uint32))
    symbols: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))

    def to_bytes(self) -> bytes:
        """Return the row: flags and width, and the count."""
        flags = self.dense * _DENSE | self.own_table * _OWN_TABLE | self.width
        return bytes([flags]) + varint(self.count)


def make_streams(
    sizes: list[int],
    ranks: list[NDArray[np.signedinteger[Any]]],
    levels: list[NDArray[np.int32]],
) -> list[ClassStream]:
    """Return the streams of the classes that have an entry, in their cheapest form.

    Parameters
    ----------
    sizes : list[int]
        Number of entries of each class.
    ranks, levels : list[NDArray]
        For each class, which of its entries are not zero, ascending, and their levels.
    """
    streams: list[ClassStream] = []
    shared = np.zeros(SYMBOLS, np.int64)
    for number, (size, rank, level) in enumerate(
        zip(sizes, ranks, levels, strict=True)
    ):
        if not len(rank):
            continue
        gaps, symbols = _gaps_of(rank), symbols_of(level)[0]
        width, bits = _rice(gaps)
        counts = np.bincount(symbols, minlength=SYMBOLS)
        every = counts.copy()
        every[0] = size - len(rank)
        dense = _WORTH_ALL * _entropy(every) < bits + _entropy(counts)
        if dense:
            counts, width, gaps = every, 0, np.zeros(0, rank.dtype)
            full = np.zeros(size, np.uint16)
            full[rank] = symbols
            symbols = full
        new = (
            not streams
            or dense != streams[-1].dense
            or _entropy(counts) + _entropy(shared) + _TABLE_BITS * _last(counts)
            < _entropy(counts + shared)
        )
        shared = counts if new else shared + counts
        streams.append(
            ClassStream(number, dense, width, len(symbols), new, gaps, symbols)
        )
    return streams


def _gaps_of(rank: NDArray[np.signedinteger[Any]]) -> NDArray[np.signedinteger[Any]]:
    """Return how many entries are skipped before each."""
    gaps = rank.copy()
    gaps[1:] -= rank[:-1]
    gaps[1:] -= 1
    return gaps


def _rice(gaps: NDArray[np.signedinteger[Any]]) -> tuple[int, int]:
    """Return the best Rice parameter of some gaps, and their bits."""
    total = int(gaps.sum())
    near = max(0, (total // len(gaps) + 1).bit_length() - 1)
    costs = {
        width: int((gaps >> width).sum()) + len(gaps) * (width + 1)
        for width in range(max(0, near - 1), min(near + 1, _MOST_WIDTH) + 1)
    }
    width = min(costs, key=costs.__getitem__)
    return width, costs[width]


def _entropy(counts: NDArray[np.int64]) -> float:
    """Return the bits of symbols that occur so often, in a code made for them."""
    seen = counts[counts > 0]
    return float(seen @ np.log2(seen)) * -1 + int(seen.sum()) * log2(
        max(1, int(seen.sum()))
    )


def _last(counts: NDArray[np.int64]) -> int:
    return int(np.flatnonzero(counts)[-1]) + 1


def rows_bytes(streams: list[ClassStream]) -> bytes:
    """Return which classes there are, one bit each, and a row for each of them."""
    mask = sum(1 << stream.number for stream in streams)
    return mask.to_bytes(CLASSES // 8, "little") + b"".join(
        stream.to_bytes() for stream in streams
    )


def read_rows(reader: Reader, entries: int) -> list[ClassStream]:
    """Read what :func:`rows_bytes` wrote.

    Parameters
    ----------
    reader : Reader
        At the rows.
    entries : int
        Number of entries of all classes.

    Raises
    ------
    PayloadError
        If a row is invalid.
    """
    mask = int.from_bytes(reader.take(CLASSES // 8, "classes"), "little")
    streams: list[ClassStream] = []
    left = entries
    for number in range(CLASSES):
        if not mask >> number & 1:
            continue
        where = f"class {number}"
        (flags,) = reader.take(1, where)
        count = reader.varint(where)
        dense, own = bool(flags & _DENSE), bool(flags & _OWN_TABLE)
        if flags >> 7 or (dense and flags & _MOST_WIDTH):
            raise PayloadError(f"{where}: unknown flags {flags}")
        if not 0 < count <= left:
            raise PayloadError(f"{where}: {count} levels of {left} entries")
        if not own and (not streams or streams[-1].dense != dense):
            raise PayloadError(f"{where}: there is no table that it could share")
        left -= count
        streams.append(ClassStream(number, dense, flags & _MOST_WIDTH, count, own))
    return streams


def gap_bytes(streams: list[ClassStream]) -> tuple[bytes, bytes]:
    """Return the gaps' unary stream, and their low bits: packed by class."""
    sparse = [stream for stream in streams if not stream.dense]
    if not sparse:
        return b"", b""
    unary = pack_unary(np.concatenate([s.gaps >> s.width for s in sparse]))
    low = [
        pack((s.gaps & ((1 << s.width) - 1)).astype(np.uint32), s.width) for s in sparse
    ]
    return unary, b"".join(low)


def read_ranks(
    reader: Reader, streams: list[ClassStream], unary_length: int, entries: int
) -> list[NDArray[np.signedinteger[Any]]]:
    """Read which entries of each sparse class are not zero; none for a dense class.

    Raises
    ------
    PayloadError
        If the gaps are corrupt, or an entry lies beyond all of them.
    """
    sparse = [stream for stream in streams if not stream.dense]
    count = sum(stream.count for stream in sparse)
    data = reader.take(unary_length, _GAPS)
    # Of each class, the high parts add up to at most its entries / 2**width.
    limit = count + sum(entries >> stream.width for stream in sparse)
    high = unpack_unary(data, count, limit, _GAPS)
    ranks, at = [], 0
    for stream in streams:
        if stream.dense:
            ranks.append(np.zeros(0, np.int64))
            continue
        low = reader.take(packed_length(stream.count, stream.width), _GAPS)
        gaps = high[at : at + stream.count].astype(np.int64) << stream.width
        gaps += unpack(low, stream.count, stream.width, _GAPS)
        gaps[1:] += 1
        at += stream.count
        rank = np.cumsum(gaps)
        if rank[-1] >= entries:
            raise PayloadError(f"{_GAPS}: entry {rank[-1]} of {entries}")
        ranks.append(rank)
    return ranks
