import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec.bits import varint
from flasc_flwr.core.codec.entropy import (
    decode_symbols,
    encode_symbols,
    frequencies,
    frequency_bytes,
    read_frequencies,
)
from flasc_flwr.core.codec.errors import PayloadError


def plain_ans(symbols: list[int], table: list[int]) -> list[int]:
    """Return the words as docs/wire-format.md says they are made."""
    starts = [sum(table[:symbol]) << 10 for symbol in range(len(table))]
    state, words = 0, []
    for symbol in reversed(symbols):
        frequency = table[symbol] << 10
        if state >> 40 >= frequency:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // frequency << 24) + starts[symbol] + state % frequency
    while state:
        words.append(state & 0xFFFFFFFF)
        state >>= 32
    return words


def plain_symbols(words: list[int], count: int, table: list[int]) -> list[int]:
    """Return the symbols as docs/wire-format.md says they are read."""
    starts = [sum(table[:symbol]) << 10 for symbol in range(len(table))]
    left, state, symbols = list(words), 0, []
    for _ in range(min(2, len(left))):
        state = state << 32 | left.pop()
    for _ in range(count):
        r = state % 2**24
        symbol = max(s for s, start in enumerate(starts) if start <= r and table[s])
        state = (state >> 24) * (table[symbol] << 10) + r - starts[symbol]
        if state < 2**32 and left:
            state = state << 32 | left.pop()
        symbols.append(symbol)
    assert not left and not state
    return symbols


counted = st.lists(st.integers(0, 1000), min_size=2, max_size=60).filter(
    lambda counts: sum(count > 0 for count in counts) >= 2 and counts[-1] > 0
)


@given(counted)
def test_frequencies_add_up_and_lose_no_symbol(counts):
    table = frequencies(np.array(counts))
    assert table.sum() == 1 << 14
    assert ((table > 0) == (np.array(counts) > 0)).all()
    assert (read_frequencies(memoryview(frequency_bytes(table))) == table).all()


@given(counted, st.randoms())
def test_symbols_come_back_from_the_words_of_the_plain_way(counts, random):
    symbols = [s for s, count in enumerate(counts) for _ in range(min(count, 20))]
    random.shuffle(symbols)
    table = frequencies(np.array(counts))
    data = encode_symbols(np.array(symbols), table)
    words = np.frombuffer(data, "<u4").tolist()
    assert words == plain_ans(symbols, table.tolist())
    assert plain_symbols(words, len(symbols), table.tolist()) == symbols
    assert decode_symbols(memoryview(data), len(symbols), table).tolist() == symbols


@pytest.mark.parametrize(
    "table",
    [[], [1 << 14], [0, 1 << 14], [1 << 13, 1 << 13, 0], [1, 2], [1 << 14, 1]],
)
def test_corrupt_frequencies_are_refused(table):
    data = b"".join(map(varint, table))
    with pytest.raises(PayloadError, match="frequencies"):
        read_frequencies(memoryview(data))


def test_a_table_of_too_many_symbols_is_refused():
    with pytest.raises(PayloadError, match="left over"):
        read_frequencies(memoryview(bytes([4]) * 4097))


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x00", b"abc", b"\xff" * 40])
def test_a_corrupt_stream_is_refused(data):
    table = frequencies(np.array([5, 3]))
    with pytest.raises(PayloadError, match="entropy-coded stream"):
        decode_symbols(memoryview(data), 3, table)
