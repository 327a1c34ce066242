"""Many lanes of the entropy coder at once: one step codes a symbol of each, in numpy.

`entropy` says what a lane is, and has the loop for a single one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import TABLE_BITS, TOTAL

LOWEST = 1 << 16
"""A state lies in [2**16, 2**32). Coding begins and ends at 2**16."""
WORD_BITS = 16
WORD = np.dtype("<u2")
STATE = np.dtype("<u4")
WHAT = "entropy-coded stream"
"""What errors call it."""

_RUN = 1 << 15
"""Symbols that are looked up together: their tables fit into the processor's cache."""

_CONSTANTS = tuple(
    np.array(each, np.uint32) for each in (TOTAL - 1, TABLE_BITS, WORD_BITS, LOWEST)
)
"""As arrays: numpy takes twice as long for an operation with a Python integer."""
_PER_WORD = np.array(2.0**-WORD_BITS)


def encode_lanes(
    index: Integers,
    sizes: NDArray[np.int64],
    starts: NDArray[np.int64],
    lanes: int,
) -> bytes:
    """Code symbols of several lanes, from the last step to the first.

    States are whole numbers below 2**32 in float64, where a product with a reciprocal
    takes the place of a division. It is exact: the reciprocal is at least 1 / f and at
    most (1 + 2**-51) / f, so that the product is neither below x / f nor, as x is below
    2**32 and f at most 2**14, at or above the next multiple of 1 / f.
    """
    with np.errstate(divide="ignore"):
        inverse = np.nextafter(1.0 / sizes, 2.0)
    full = (sizes << (2 * WORD_BITS - TABLE_BITS)).astype(np.float64)
    step = (TOTAL - sizes).astype(np.float64)
    start = starts.astype(np.float64)
    states = np.full(lanes, float(LOWEST))
    chunks: list[NDArray[Any]] = []
    last = len(index) // lanes
    if len(index) % lanes:
        # The last step has a symbol for the first lanes only.
        chunks.append(
            _encode_steps(
                states[: len(index) % lanes],
                *(
                    values[None, index[last * lanes :]]
                    for values in (inverse, full, step, start)
                ),
            )
        )
    steps = max(1, _RUN // lanes)
    for end in range(last, 0, -steps):
        begin = max(0, end - steps)
        own = index[begin * lanes : end * lanes].astype(np.intp).reshape(-1, lanes)
        coded = (values.take(own) for values in (inverse, full, step, start))
        chunks.append(_encode_steps(states, *coded))
    chunks.append(states.astype(STATE).view(WORD))
    return b"".join(chunk.tobytes() for chunk in reversed(chunks))


def _encode_steps(
    states: NDArray[np.float64],
    inverse: NDArray[np.float64],
    full: NDArray[np.float64],
    step: NDArray[np.float64],
    start: NDArray[np.float64],
) -> NDArray[Any]:
    """Code a symbol of each lane for each row, the last first; return the words."""
    before = np.empty(inverse.shape)
    ready = np.empty(inverse.shape, np.bool_)
    scratch = np.empty(len(states))
    multiply, floor, add = np.multiply, np.floor, np.add
    steps = zip(before, ready, inverse, full, step, start, strict=True)
    for was, is_ready, by, limit, more, plus in reversed(list(steps)):
        was[:] = states
        np.greater_equal(states, limit, is_ready)
        multiply(states, _PER_WORD, scratch)
        floor(scratch, scratch)
        np.putmask(states, is_ready, scratch)
        multiply(states, by, scratch)
        floor(scratch, scratch)
        multiply(scratch, more, scratch)
        add(states, scratch, states)
        add(states, plus, states)
    words = before[ready].astype(np.uint32)
    words &= 0xFFFF
    return words.astype(WORD)


@dataclass(frozen=True)
class Slots:
    """Tables by slot: the ``2**14`` numbers of each table, shared out by frequency.

    Attributes
    ----------
    symbols : NDArray[np.uint16], shape (T * 2**14,)
        Whose slot it is.
    sizes : NDArray[np.uint32], shape (T * 2**14,)
        That symbol's frequency.
    offsets : NDArray[np.uint32], shape (T * 2**14,)
        The slot's number among those of its symbol.
    """

    symbols: NDArray[np.uint16]
    sizes: NDArray[np.uint32]
    offsets: NDArray[np.uint32]

    @classmethod
    def of(cls, tables: Integers) -> Slots:
        """Return the slots of tables of shape (T, S)."""
        repeats = tables.ravel().astype(np.intp)
        sizes = tables.astype(np.uint32)
        starts = np.cumsum(sizes, axis=1, dtype=np.uint32) - sizes
        offsets = np.tile(np.arange(TOTAL, dtype=np.uint32), len(tables))
        offsets -= np.repeat(starts.ravel(), repeats)
        every = np.arange(tables.shape[1], dtype=np.uint16)
        return cls(
            np.repeat(np.tile(every, len(tables)), repeats),
            np.repeat(sizes.ravel(), repeats),
            offsets,
        )


def decode_lanes(
    states: NDArray[np.uint32],
    words: NDArray[np.uint32],
    count: int,
    slots: Slots,
    which: NDArray[np.uint8] | None,
) -> NDArray[np.uint16]:
    """Decode the symbols of several lanes, one of each in every step."""
    lanes = len(states)
    decoded = np.empty(count, np.uint16)
    run = max(1, _RUN // lanes) * lanes
    scratch = np.empty(lanes, np.uint32)
    mask, table_bits, word_bits, lowest = _CONSTANTS
    at = 0
    for begin in range(0, count, run):
        own = decoded[begin : begin + run]
        chosen = np.empty(len(own), np.intp)
        if which is not None:
            base = which[begin : begin + len(own)].astype(np.uint32) << TABLE_BITS
        for first in range(0, len(own), lanes):
            slot = chosen[first : first + lanes]
            # The last step has a symbol for the first lanes only.
            state, of_slot = states[: len(slot)], scratch[: len(slot)]
            np.bitwise_and(state, mask, of_slot)
            if which is not None:
                np.add(of_slot, base[first : first + lanes], of_slot)
            slot[:] = of_slot
            np.right_shift(state, table_bits, state)
            np.multiply(state, slots.sizes.take(slot, None, of_slot, "clip"), state)
            np.add(state, slots.offsets.take(slot, None, of_slot, "clip"), state)
            short = np.less(state, lowest).nonzero()[0]
            taken = words[at : at + len(short)]
            if len(taken) < len(short):
                raise PayloadError(f"{WHAT}: ends before {count} symbols")
            state[short] = np.left_shift(state[short], word_bits) | taken
            at += len(short)
        slots.symbols.take(chosen, out=own, mode="clip")
    check_end(bool((states == LOWEST).all()), len(words) - at, count)
    return decoded


def check_end(initial: bool, left: int, count: int) -> None:
    """Raise PayloadError unless all states are the first ones, and no word is left."""
    if left or not initial:
        raise PayloadError(f"{WHAT}: does not end after {count} symbols")
