"""Entropy coding of small integers: asymmetric numeral systems (Duda, arXiv 1311.2540).

The model is static: a table of frequencies that add up to ``2**14`` precedes the
symbols. The coder is constriction's ``AnsCoder``: 64-bit state, 32-bit words, 24-bit
probabilities. constriction takes probabilities as floats and rounds them; given
integers f - 1 that add up to ``2**24 - n`` it has nothing to round, and symbol i gets
exactly f of ``2**24``. So a client in another language needs only these frequencies.
"""

from __future__ import annotations

import constriction
import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import TABLE_BITS, Counts

_MODEL_BITS = 24


def encode_symbols(symbols: Integers, table: Counts) -> bytes:
    """Code symbols, each of which has a frequency above zero."""
    index = np.cumsum(table > 0, dtype=np.int32) - np.int32(1)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(index[symbols], _model(table))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4", copy=False).tobytes()


def decode_symbols(data: memoryview, count: int, table: Counts) -> NDArray[np.uint16]:
    """Return the `count` symbols of a coded stream.

    Raises
    ------
    PayloadError
        If the stream has fewer symbols, or more.
    """
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(np.uint32)
    # What the coder itself would refuse.
    if len(data) % 4 or (len(words) and not words[-1]):
        raise PayloadError("entropy-coded stream: its last word is truncated, or zero")
    coder = constriction.stream.stack.AnsCoder(words)
    indices = coder.decode(_model(table), count)
    if not coder.is_empty():
        raise PayloadError(f"entropy-coded stream: does not end after {count} symbols")
    symbols: NDArray[np.uint16] = np.flatnonzero(table).astype(np.uint16)[indices]
    return symbols


def _model(table: Counts) -> constriction.stream.model.Categorical:
    exact = (table[table > 0] << _MODEL_BITS - TABLE_BITS) - 1
    return constriction.stream.model.Categorical(
        exact.astype(np.float64), perfect=False
    )
