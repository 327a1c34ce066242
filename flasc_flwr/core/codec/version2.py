"""Payloads of version 2, which older devices and files have. They are only read.

They differ from today's in their header, which has the length of each section, and in
the coder of symbols: asymmetric numeral systems (Duda, arXiv 1311.2540) with one state
of 64 bits, words of 32 and probabilities of 24. A plain loop is enough for that.
``docs/wire-format.md`` has the differences.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers, Reader
from flasc_flwr.core.codec.block_table import read_blocks
from flasc_flwr.core.codec.body import finite_values
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import FORMATS, Quantized
from flasc_flwr.core.codec.frequencies import TABLE_BITS, Counts, read_frequencies
from flasc_flwr.core.codec.header import Header
from flasc_flwr.core.codec.positions import read_streams
from flasc_flwr.core.codec.values import (
    Coding,
    Split,
    join,
    read_signs_and_low,
    read_unary,
)
from flasc_flwr.core.layout import FINGERPRINT_BYTES
from flasc_flwr.core.sparsity import SparseVector

VERSION = 2

_HEADER = struct.Struct("<4sBBBBQ8sIIIIIII")
_STREAM = "entropy-coded stream"
_MODEL_BITS = 24
_WORD_BITS = 32


@dataclass(frozen=True)
class Lengths:
    """How values are split, and how many bytes the sections of a body have."""

    split: Split
    table: int
    unary: int
    frequencies: int
    high: int


def read_header(payload: bytes) -> tuple[Header, Lengths, Reader]:
    """Return the checked header of a payload of version 2, and a reader of its body.

    Raises
    ------
    PayloadError
        If the checksum does not match, or a field is invalid.
    """
    if len(payload) < _HEADER.size:
        raise PayloadError(f"payload has {len(payload)} bytes, less than its header")
    _, _, form, coding, width, size, fingerprint, base, layout, *lengths, crc = (
        _HEADER.unpack_from(payload)
    )
    start = zlib.crc32(bytes(4), zlib.crc32(memoryview(payload)[: _HEADER.size - 4]))
    if zlib.crc32(memoryview(payload)[_HEADER.size :], start) != crc:
        raise PayloadError("checksum does not match")
    if form >= len(FORMATS):
        raise PayloadError(f"payload has unknown value format {form}")
    if coding > Coding.ENTROPY:
        raise PayloadError(f"payload has unknown value coding {coding}")
    if width > 31:
        raise PayloadError(f"payload splits off {width} low bits, at most 31 are there")
    reader = Reader(payload)
    reader.take(_HEADER.size, "header")
    carried = reader.take(layout, "layout")
    if fingerprint == bytes(FINGERPRINT_BYTES):
        fingerprint = b""
    header = Header(form, size, fingerprint, carried)
    return header, Lengths(Split(Coding(coding), width, base), *lengths), reader


def decode_body(header: Header, lengths: Lengths, reader: Reader) -> SparseVector:
    """Return the sparse vector of a payload.

    Raises
    ------
    PayloadError
        If it is corrupt.
    """
    form = FORMATS[header.number]
    rows = Reader(reader.take(lengths.table, "block table"))
    blocks = list(read_blocks(rows, header.size))
    rows.finish("block table")
    positions = read_streams(reader, blocks, lengths.unary)
    count = len(positions)
    scales = bytes(reader.take(form.scale_bytes(count), "scales"))
    negative, low = read_signs_and_low(reader, count, lengths.split.width)
    table = Reader(reader.take(lengths.frequencies, "frequencies"))
    high = _high(
        reader.take(lengths.high, "high bits of values"),
        count,
        lengths.split.coding,
        table,
    )
    table.finish("frequencies")
    reader.finish("payload")
    magnitudes = join(high, low, lengths.split)
    values = finite_values(form, Quantized(negative, magnitudes, scales))
    return SparseVector(header.size, positions, values)


def _high(data: memoryview, count: int, coding: Coding, table: Reader) -> Integers:
    if coding is Coding.NONE:
        if data:
            raise PayloadError("high bits of values: they are not coded")
        return np.zeros(count, np.uint32)
    if coding is Coding.UNARY:
        return read_unary(data, count)
    return decode_symbols(data, count, read_frequencies(table))


def decode_symbols(data: memoryview, count: int, table: Counts) -> NDArray[np.uint16]:
    """Return the `count` symbols of a coded stream.

    Raises
    ------
    PayloadError
        If the stream has fewer symbols, or more.
    """
    if len(data) > 4 * (count + 2):
        # The loop takes two words at first, and then at most one for each symbol.
        raise PayloadError(f"{_STREAM}: does not end after {count} symbols")
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").tolist()
    if len(data) % 4 or (words and not words[-1]):
        raise PayloadError(f"{_STREAM}: its last word is truncated, or zero")
    scale = _MODEL_BITS - TABLE_BITS
    sizes = (table << scale).tolist()
    ends = np.cumsum(table << scale).tolist()
    state = 0
    for _ in range(min(2, len(words))):
        state = state << _WORD_BITS | words.pop()
    symbols = np.empty(count, np.uint16)
    for number in range(count):
        place = state & ((1 << _MODEL_BITS) - 1)
        symbol = bisect_right(ends, place)
        size = sizes[symbol]
        state = (state >> _MODEL_BITS) * size + place - ends[symbol] + size
        if state < 1 << _WORD_BITS and words:
            state = state << _WORD_BITS | words.pop()
        symbols[number] = symbol
    if words or state:
        raise PayloadError(f"{_STREAM}: does not end after {count} symbols")
    return symbols
