"""Levels as symbols of a small alphabet, and the low bits of large levels.

Levels up to 15 are their own symbols; a level from 2**e on, e >= 4, is the symbol
12 + e and its e low bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Reader, pack, packed_length, unpack
from flasc_flwr.core.codec.errors import PayloadError

_DIRECT = 16
_FIRST_WIDTH = 4
_MOST_WIDTH = 23

SYMBOLS = _DIRECT + _MOST_WIDTH - _FIRST_WIDTH + 1
"""Number of symbols: levels have at most 24 bits."""

_WHAT = "low bits of levels"


def symbols_of(levels: NDArray[np.int32]) -> tuple[NDArray[np.uint16], bytes]:
    """Return the symbols of some levels, and the bits beside them.

    The bits are packed by width, the narrowest first.
    """
    symbols = levels.astype(np.uint16)
    large = np.flatnonzero(levels >= _DIRECT)
    if not len(large):
        return symbols, b""
    beyond = levels[large]
    widths = np.frexp(beyond.astype(np.float64))[1] - 1
    symbols[large] = _DIRECT - _FIRST_WIDTH + widths
    low = (beyond - (1 << widths)).astype(np.uint32)
    parts = [pack(low[widths == w], w) for w in sorted(set(widths.tolist()))]
    return symbols, b"".join(parts)


def read_levels(reader: Reader, symbols: NDArray[np.uint16]) -> NDArray[np.int32]:
    """Return the levels of symbols; reads the bits beside them.

    Raises
    ------
    PayloadError
        If the bits are corrupt.
    """
    levels = symbols.astype(np.int32)
    for width in range(_FIRST_WIDTH, _MOST_WIDTH + 1):
        own = np.flatnonzero(symbols == _DIRECT - _FIRST_WIDTH + width)
        if len(own):
            data = reader.take(packed_length(len(own), width), _WHAT)
            levels[own] = unpack(data, len(own), width, _WHAT)
            levels[own] += 1 << width
    return levels


def require_symbols(symbols: NDArray[np.uint16]) -> None:
    """Raise PayloadError if a symbol is none of a level."""
    if symbols.max(initial=0) >= SYMBOLS:
        raise PayloadError(f"levels: a symbol is not below {SYMBOLS}")
