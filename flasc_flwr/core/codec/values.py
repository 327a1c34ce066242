"""Values: signs and magnitudes as streams of bits.

Signs and the low bits of magnitudes are close to random and stored as they are. The
high bits are coded in one of three ways, whichever is cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.ans64 import decode_symbols, encode_symbols
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
)
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import (
    MOST_SYMBOLS,
    Counts,
    frequencies,
    frequency_bytes,
    read_frequencies,
)

_MOST_UNARY_BITS = 8
"""Most bits per value in a unary stream, on average; bounds the memory to decode it."""

_MAGNITUDE_END = 1 << 31

_WORTH_A_TABLE = 0.97
"""Entropy coding takes several times as long as unary coding. It is chosen if it makes
the coded values smaller than this fraction."""


class Coding(IntEnum):
    """How the high bits of magnitudes are coded."""

    NONE = 0
    UNARY = 1
    ENTROPY = 2


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


def encode_values(negative: NDArray[np.bool_], magnitudes: Integers) -> CodedValues:
    """Code signs and magnitudes, both of shape (k,)."""
    base = magnitudes.min() if len(magnitudes) else magnitudes.dtype.type(0)
    above = magnitudes - base
    coding, width, counts = _choose(above)
    table = high = b""
    if coding is Coding.UNARY:
        high = pack_unary(above >> width)
    elif coding is Coding.ENTROPY:
        model = frequencies(counts)
        table = frequency_bytes(model)
        high = encode_symbols(above >> width, model)
    low = pack(above & above.dtype.type((1 << width) - 1), width)
    return CodedValues(
        Split(coding, width, int(base)), pack_bits(negative), low, table, high
    )


def _choose(above: Integers) -> tuple[Coding, int, Counts]:
    """Return the cheapest coding, its number of low bits, and counts of high bits."""
    span = int(above.max()) if len(above) else 0
    bits = span.bit_length()
    width = max(0, bits - MOST_SYMBOLS.bit_length() + 1)
    counts = np.bincount(above >> width) if span else np.zeros(1, np.int64)
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
        if smallest[0] + total < _WORTH_A_TABLE * (best[0] + total):
            best = smallest
    return best[1:]


def _entropy_coded_bits(counts: Counts) -> float:
    seen = counts[counts > 0]
    entropy = float(seen @ np.log2(seen.sum() / seen))
    return entropy + 8 * (len(counts) + len(seen)) + 64


def decode_values(
    reader: Reader, count: int, split: Split, table_length: int, high_length: int
) -> tuple[NDArray[np.bool_], Integers]:
    """Read `count` signs and magnitudes.

    Parameters
    ----------
    reader : Reader
        At the signs.
    count : int
        k.
    split : Split
        How the magnitudes are split.
    table_length, high_length : int
        Bytes of the frequencies and of the high bits.

    Raises
    ------
    PayloadError
        If they are corrupt.
    """
    signs = reader.take((count + 7) // 8, "signs")
    negative = unpack_bits(signs, count, "signs")
    data = reader.take(packed_length(count, split.width), "low bits of values")
    magnitudes = unpack(data, count, split.width, "low bits of values")
    table = reader.take(table_length, "frequencies")
    data = reader.take(high_length, "high bits of values")
    if split.coding is not Coding.ENTROPY and table_length:
        raise PayloadError("frequencies: the values are not entropy-coded")
    high: Integers
    if split.coding is Coding.NONE:
        if high_length:
            raise PayloadError("high bits of values: they are not coded")
        high = np.zeros(count, np.uint32)
    elif split.coding is Coding.UNARY:
        limit = _MOST_UNARY_BITS * count
        high = unpack_unary(data, count, limit, "high bits of values")
    else:
        high = decode_symbols(data, count, read_frequencies(table))
    if (int(high.max(initial=0)) << split.width) + split.base >= _MAGNITUDE_END:
        raise PayloadError("high bits of values: a magnitude takes more than 31 bits")
    return negative, _join(high, magnitudes, split)


def _join(high: Integers, low: Integers, split: Split) -> Integers:
    magnitudes = high.astype(np.uint32, copy=False)
    magnitudes <<= split.width
    magnitudes += np.uint32(split.base)
    magnitudes += low
    return magnitudes
