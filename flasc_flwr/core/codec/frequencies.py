"""Tables of frequencies for the entropy coder, and their bytes.

Two forms: exact frequencies as varints, up to 2 bytes a symbol; and for small alphabets
*compact* ones, 6 bits a symbol: each frequency as its logarithm in quarters of an
octave, which both sides scale to the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import (
    Integers,
    Reader,
    pack,
    packed_length,
    unpack,
    varint,
)
from flasc_flwr.core.codec.errors import PayloadError

Counts = NDArray[np.int64]

MOST_SYMBOLS = 1 << 12
"""Most symbols of a table."""
MOST_COMPACT_SYMBOLS = 1 << 6
"""Most symbols of a compact table."""

TABLE_BITS = 14
TOTAL = 1 << TABLE_BITS
"""What the frequencies of a table add up to."""

_CODE_BITS = 6
_LARGEST_CODE = (1 << _CODE_BITS) - 1

# 2**14 times 2**(i/4), and times 2**(i/4 + 1/8), where the next one becomes nearer.
_QUARTERS = (16384, 19484, 23170, 27554)
_BETWEEN = (17867, 21247, 25268, 30048)

_WEIGHTS = np.array(
    [0, *(_QUARTERS[i % 4] << i // 4 for i in range(_LARGEST_CODE))], np.int64
)
_EDGES = np.array(
    [_BETWEEN[i % 4] << i // 4 for i in range(_LARGEST_CODE - 1)], np.int64
)


def frequencies(counts: Counts) -> Counts:
    """Scale counts to frequencies that add up to ``2**14``, each at least 1 if seen.

    Parameters
    ----------
    counts : NDArray[np.int64], shape (S,)
        How often each symbol occurs; at least one does, and S is at most
        `MOST_SYMBOLS`. The largest is below ``2**49``.
    """
    seen = counts > 0
    free = TOTAL - int(seen.sum())
    scaled: Counts = counts * free // counts.sum() + seen
    # The rest goes to the most frequent symbols, where the error costs least.
    rest = TOTAL - int(scaled.sum())
    scaled[np.argsort(-counts, kind="stable")[:rest]] += 1
    return scaled


def frequency_bytes(frequencies: Counts) -> bytes:
    """Return frequencies as varints."""
    return b"".join(varint(frequency) for frequency in frequencies.tolist())


def read_frequencies(reader: Reader) -> Counts:
    """Read the frequencies that :func:`frequency_bytes` wrote, until they add up.

    Raises
    ------
    PayloadError
        If they do not add up to ``2**14``, or there are too many or too few.
    """
    table: list[int] = []
    total = 0
    while total < TOTAL and len(table) < MOST_SYMBOLS:
        table.append(reader.varint("frequencies"))
        total += table[-1]
    if total != TOTAL or max(table) == TOTAL:
        raise PayloadError(
            f"frequencies: {len(table)} that add up to {total}, expected at least two "
            f"that add up to {TOTAL}"
        )
    return np.array(table, np.int64)


def compact_table(counts: Integers) -> bytes:
    """Return a compact table: a byte S, then S codes of 6 bits, packed.

    Code 0 is a symbol that does not occur, code q a weight of ``2**((q - 1) / 4)``,
    rounded. The most frequent symbol has the largest code, the others the one nearest
    to their counts in proportion. Costs at most 0.3 % of the coded symbols, most often
    0.1 %.

    Parameters
    ----------
    counts : integers, shape (S,)
        How often each symbol occurs; at least one does, and at most
        `MOST_COMPACT_SYMBOLS` up to the last one that does.
    """
    seen = np.flatnonzero(counts)
    if not len(seen) or seen[-1] >= MOST_COMPACT_SYMBOLS:
        raise ValueError(
            f"counts must have 1 to {MOST_COMPACT_SYMBOLS} symbols, got "
            f"{seen[-1] + 1 if len(seen) else 0}"
        )
    used = [int(count) for count in counts[: seen[-1] + 1]]
    largest, top = max(used), int(_WEIGHTS[-1])
    scaled = np.array([count * top // largest for count in used], np.int64)
    codes = np.searchsorted(_EDGES, scaled, side="right") + 1
    codes[np.array(used) == 0] = 0
    return bytes([len(used)]) + pack(codes.astype(np.uint8), _CODE_BITS)


def read_compact_table(reader: Reader, what: str = "compact table") -> Counts:
    """Return the frequencies of a compact table, shape (S,), adding up to ``2**14``.

    Parameters
    ----------
    reader : Reader
        At the table.
    what : str
        What errors call it.

    Raises
    ------
    PayloadError
        If the table has no symbol or too many, or its last symbol does not occur.
    """
    (size,) = reader.take(1, what)
    if not 0 < size <= MOST_COMPACT_SYMBOLS:
        raise PayloadError(
            f"{what}: {size} symbols, expected 1 to {MOST_COMPACT_SYMBOLS}"
        )
    data = reader.take(packed_length(size, _CODE_BITS), what)
    codes = unpack(data, size, _CODE_BITS, what)
    if not codes[-1]:
        raise PayloadError(f"{what}: its last symbol does not occur")
    return frequencies(_WEIGHTS[codes])


def stacked(tables: list[Counts]) -> Counts:
    """Return tables of any lengths as rows, shape (T, S), padded with zeros."""
    rows = np.zeros((len(tables), max(map(len, tables))), np.int64)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table)] = table
    return rows
