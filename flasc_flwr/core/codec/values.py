"""Values: signs and magnitudes as streams of bits.

Signs and the low bits of magnitudes are close to random and stored as they are. The
high bits are coded in one of three ways, whichever is cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import (
    Integers,
    Reader,
    pack,
    pack_bits,
    pack_unary,
    packed_length,
    unpack,
    unpack_bits,
    unpack_unary,
    varint,
)
from flasc_flwr.core.codec.entropy import decode_symbols, encode_symbols, lanes_of
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import (
    MOST_COMPACT_SYMBOLS,
    MOST_SYMBOLS,
    Counts,
    compact_table,
    frequencies,
    frequency_bytes,
    read_compact_table,
    read_frequencies,
)
from flasc_flwr.core.layout import chunks

_MOST_UNARY_BITS = 8
"""Most bits per value in a unary stream, on average; bounds the memory to decode it."""

_MAGNITUDE_END = 1 << 31

_CODING_BITS = 3
_LANE_BITS = 24
"""A lane's state takes 32 bits, of which 8 are symbols on average."""

_FEW = 1 << 16
_WORTH_THE_TIME = 0.97
"""Entropy coding takes about five times as long as unary coding: 11 and 7 ms instead of
2.5 and 1.5 for 625,000 values. Up to `_FEW` values, where it takes 5 ms, it is chosen
if it is smaller, beyond that if it makes the coded values smaller than this fraction.
"""


class Coding(IntEnum):
    """How the high bits of magnitudes are coded."""

    NONE = 0
    UNARY = 1
    ENTROPY = 2
    COMPACT = 3
    """Entropy-coded, too, with a compact table of frequencies."""


@dataclass(frozen=True)
class Split:
    """How magnitudes are split and coded.

    Attributes
    ----------
    coding : Coding
        Code of the high bits.
    width : int
        Number of low bits.
    base : int
        The smallest magnitude, which is subtracted from all.
    """

    coding: Coding
    width: int
    base: int


@dataclass(frozen=True)
class CodedValues:
    """Values as bytes: the streams, and how magnitudes are split between them."""

    split: Split
    signs: bytes
    low: bytes
    frequencies: bytes
    high: bytes

    def to_bytes(self) -> bytes:
        """Return the section, which ends the payload: so `high` needs no length."""
        head = bytes([self.split.coding | self.split.width << _CODING_BITS])
        return b"".join(
            (
                head, varint(self.split.base),
                self.signs, self.low, self.frequencies, self.high,
            )
        )  # fmt: skip


def encode_values(negative: NDArray[np.bool_], magnitudes: Integers) -> CodedValues:
    """Code signs and magnitudes, both of shape (k,)."""
    base = magnitudes.min() if len(magnitudes) else magnitudes.dtype.type(0)
    above = magnitudes - base
    coding, width, counts = _choose(above)
    table = high = b""
    if coding is Coding.UNARY:
        high = pack_unary(above >> width)
    elif coding is Coding.ENTROPY:
        coding, table, model = _best_table(counts)
        high = encode_symbols(above >> width, model[None])
    low = pack(above & above.dtype.type((1 << width) - 1), width)
    return CodedValues(
        Split(coding, width, int(base)), pack_bits(negative), low, table, high
    )


def _choose(above: Integers) -> tuple[Coding, int, Counts]:
    """Return the cheapest coding, its number of low bits, and counts of high bits."""
    span = int(above.max()) if len(above) else 0
    bits = span.bit_length()
    width = max(0, bits - MOST_SYMBOLS.bit_length() + 1)
    counts = np.zeros((span >> width) + 1, np.int64)  # at most `MOST_SYMBOLS`
    for chunk in chunks(len(above)):
        # numpy counts no other unsigned integers on 32-bit machines.
        symbols = (above[chunk] >> width).astype(np.intp)
        counts += np.bincount(symbols, minlength=len(counts))
    total = len(above)
    simple: list[tuple[float, Coding, int, Counts]]
    simple = [(bits * total, Coding.NONE, bits, counts)]
    coded = []
    while len(counts) > 1:
        unary = int(counts @ np.arange(1, len(counts) + 1))
        if unary <= _MOST_UNARY_BITS * total:
            simple.append((unary + width * total, Coding.UNARY, width, counts))
        cost = _entropy_coded_bits(counts) + width * total
        coded.append((cost, Coding.ENTROPY, width, counts))
        counts = np.add.reduceat(counts, np.arange(0, len(counts), 2))
        width += 1
    best = min(simple, key=lambda way: way[0])
    if coded:
        smallest = min(coded, key=lambda way: way[0])
        # Compared with the signs included, which are sent in any case.
        fraction = _WORTH_THE_TIME if total > _FEW else 1.0
        if smallest[0] + total < fraction * (best[0] + total):
            best = smallest
    return best[1:]


def _entropy_coded_bits(counts: Counts) -> float:
    seen = counts[counts > 0]
    entropy = float(seen @ np.log2(seen.sum() / seen))
    table = 8 * (len(counts) + len(seen))
    if len(counts) <= MOST_COMPACT_SYMBOLS:
        table = min(table, 8 + 6 * len(counts))
    return entropy + table + _LANE_BITS * lanes_of(int(counts.sum()))


def _best_table(counts: Counts) -> tuple[Coding, bytes, Counts]:
    """Return the coding, bytes and frequencies of the cheaper table."""
    exact = frequencies(counts)
    tables = [(Coding.ENTROPY, frequency_bytes(exact), exact)]
    if len(counts) <= MOST_COMPACT_SYMBOLS:
        data = compact_table(counts)
        tables.append((Coding.COMPACT, data, read_compact_table(Reader(data))))
    seen = counts > 0

    def bits(way: tuple[Coding, bytes, Counts]) -> float:
        _, data, table = way
        return 8 * len(data) - float(counts[seen] @ np.log2(table[seen]))

    return min(tables, key=bits)


def decode_values(reader: Reader, count: int) -> tuple[NDArray[np.bool_], Integers]:
    """Read `count` signs and magnitudes, the last section of a payload.

    Raises
    ------
    PayloadError
        If they are corrupt.
    """
    (head,) = reader.take(1, "split of values")
    coding, width = head & ((1 << _CODING_BITS) - 1), head >> _CODING_BITS
    if coding > max(Coding):
        raise PayloadError(f"payload has unknown value coding {coding}")
    split = Split(Coding(coding), width, reader.varint("base of values"))
    negative, low = read_signs_and_low(reader, count, width)
    high: Integers
    if split.coding is Coding.NONE:
        high = np.zeros(count, np.uint32)
    elif split.coding is Coding.UNARY:
        high = read_unary(reader.rest(), count)
    else:
        compact = split.coding is Coding.COMPACT
        table = read_compact_table(reader) if compact else read_frequencies(reader)
        high = decode_symbols(reader.rest(), count, table[None])
    return negative, join(high, low, split)


def read_signs_and_low(
    reader: Reader, count: int, width: int
) -> tuple[NDArray[np.bool_], Integers]:
    """Read the parts of `count` values that are not coded."""
    signs = reader.take((count + 7) // 8, "signs")
    negative = unpack_bits(signs, count, "signs")
    data = reader.take(packed_length(count, width), "low bits of values")
    return negative, unpack(data, count, width, "low bits of values")


def read_unary(data: memoryview, count: int) -> Integers:
    """Return the high bits of `count` values in unary."""
    return unpack_unary(data, count, _MOST_UNARY_BITS * count, "high bits of values")


def join(high: Integers, low: Integers, split: Split) -> Integers:
    """Return magnitudes from their parts.

    Raises
    ------
    PayloadError
        If one takes more than 31 bits.
    """
    if (int(high.max(initial=0)) << split.width) + split.base >= _MAGNITUDE_END:
        raise PayloadError("high bits of values: a magnitude takes more than 31 bits")
    magnitudes = high.astype(np.uint32, copy=False)
    magnitudes <<= split.width
    magnitudes += np.uint32(split.base)
    magnitudes += low
    return magnitudes
