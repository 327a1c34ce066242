"""Entropy coding of small integers: interleaved range ANS, in numpy.

Asymmetric numeral systems (Duda, arXiv 1311.2540) in the form rANS: a lane is a state
of 32 bits that takes and gives words of 16 bits. Symbol i belongs to lane ``i % L``, so
that one step codes a symbol of each lane (Giesen, arXiv 1402.3392). L is a function of
the number of symbols, :func:`lanes_of`. `frequencies` has the tables;
``docs/wire-format.md`` has the formulas.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import TABLE_BITS, TOTAL
from flasc_flwr.core.codec.lanes import (
    LOWEST,
    STATE,
    WHAT,
    WORD,
    WORD_BITS,
    Slots,
    check_end,
    decode_lanes,
    encode_lanes,
)
from flasc_flwr.core.layout import chunks

MOST_LANES = 1 << 11
"""Most lanes of a stream."""
SYMBOLS_PER_LANE = 1 << 10
"""Least symbols of a lane, if there are several. A lane costs 4 bytes."""
_FEWEST_LANES = 1 << 5
"""Below that, a loop over Python integers is as fast as numpy."""

_STATE_BYTES = 4


def lanes_of(count: int) -> int:
    """Return L, the number of lanes of a stream of `count` symbols.

    The largest power of two that leaves each lane at least 2**10 symbols, at most
    2**11; but 1 instead of 2 to 16.
    """
    lanes = 1 << max(0, (count // SYMBOLS_PER_LANE).bit_length() - 1)
    return 1 if lanes < _FEWEST_LANES else min(lanes, MOST_LANES)


def encode_symbols(
    symbols: Integers, tables: Integers, which: NDArray[np.uint8] | None = None
) -> bytes:
    """Code symbols.

    Parameters
    ----------
    symbols : NDArray[np.uint16], shape (n,)
        The symbols, below S.
    tables : integers, shape (T, S)
        Frequencies, each row adding up to ``2**14``.
    which : NDArray[np.uint8], shape (n,), optional
        The row of `tables` that each symbol is coded with, which the decoder must
        know; by default all are coded with the first.

    Returns
    -------
    bytes
        The lanes' states, 4 bytes each, then words of 2 bytes; nothing if n is 0.

    Raises
    ------
    ValueError
        If a symbol has no frequency in its table.
    """
    if not len(symbols):
        return b""
    width = tables.shape[1]
    if int(symbols.max()) >= width:
        raise ValueError(f"symbols must be below {width}, got {symbols.max()}")
    index = symbols
    if which is not None:
        index = np.multiply(which, width, dtype=np.uint32) + symbols
    sizes = tables.astype(np.int64)
    starts = (np.cumsum(sizes, axis=1) - sizes).ravel()
    sizes = sizes.ravel()
    possible = sizes > 0
    if not all(possible[index[chunk]].all() for chunk in chunks(len(index))):
        raise ValueError("symbols must have a frequency above 0 in their table")
    lanes = lanes_of(len(index))
    if lanes == 1:
        return _encode_lane(index.tolist(), sizes.tolist(), starts.tolist())
    return encode_lanes(index, sizes, starts, lanes)


def _encode_lane(symbols: list[int], sizes: list[int], starts: list[int]) -> bytes:
    """Code the symbols of one lane, from the last to the first."""
    state, words = LOWEST, []
    full = 2 * WORD_BITS - TABLE_BITS
    for symbol in reversed(symbols):
        size = sizes[symbol]
        if state >> full >= size:
            words.append(state & 0xFFFF)
            state >>= WORD_BITS
        state += state // size * (TOTAL - size) + starts[symbol]
    words.reverse()
    return state.to_bytes(_STATE_BYTES, "little") + np.array(words, WORD).tobytes()


def decode_symbols(
    data: bytes | memoryview,
    count: int,
    tables: Integers,
    which: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint16]:
    """Return the symbols that :func:`encode_symbols` coded.

    Parameters
    ----------
    data : bytes or memoryview
        The coded stream; it may come from a stranger.
    count : int
        n, which the caller must have bounded.
    tables : integers, shape (T, S)
        Frequencies, each row adding up to ``2**14``: the caller must have checked them.
    which : NDArray[np.uint8], shape (n,), optional
        The row of `tables` for each symbol, below T.

    Raises
    ------
    PayloadError
        If the stream has fewer symbols, or more.
    """
    lanes = lanes_of(count) if count else 0
    head = _STATE_BYTES * lanes
    if len(data) < head or len(data) % 2 or (not count and len(data)):
        raise PayloadError(
            f"{WHAT}: {len(data)} bytes, expected at least {head} and whole words"
        )
    if not count:
        return np.zeros(0, np.uint16)
    states = np.frombuffer(data[:head], STATE).astype(np.uint32)
    words = np.frombuffer(data[head:], WORD).astype(np.uint32)
    # Each step takes at most one word a lane.
    if states.min() < LOWEST or len(words) > count:
        raise PayloadError(f"{WHAT}: does not begin as one of {count} symbols")
    if lanes == 1:
        return _decode_lane(int(states[0]), words.tolist(), count, tables, which)
    return decode_lanes(states, words, count, Slots.of(tables), which)


def _decode_lane(
    state: int,
    words: list[int],
    count: int,
    tables: Integers,
    which: NDArray[np.uint8] | None,
) -> NDArray[np.uint16]:
    """Decode the symbols of one lane."""
    sizes = tables.tolist()
    ends = np.cumsum(tables, axis=1).tolist()
    rows = which.tolist() if which is not None else bytes(count)
    symbols = []
    words.reverse()
    try:
        for row in rows:
            slot = state & (TOTAL - 1)
            symbol = bisect_right(ends[row], slot)
            size = sizes[row][symbol]
            state = size * (state >> TABLE_BITS) + slot - ends[row][symbol] + size
            if state < LOWEST:
                state = state << WORD_BITS | words.pop()
            symbols.append(symbol)
    except IndexError:
        raise PayloadError(f"{WHAT}: ends before {count} symbols") from None
    check_end(state == LOWEST, len(words), count)
    return np.array(symbols, np.uint16)
