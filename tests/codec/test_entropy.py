"""The entropy coder, beside a plain transcription of docs/wire-format.md."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec.entropy import decode_symbols, encode_symbols, lanes_of
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import frequencies, stacked

TOTAL = 1 << 14
LANES = [2**15, 2**15 + 1, 2**16 - 1, 2**16, 100_003]


def plain_bytes(symbols: list[int], tables: list[list[int]], which: list[int]) -> bytes:
    """Return the stream as docs/wire-format.md says it is made."""
    states = [2**16] * lanes_of(len(symbols))
    words = []
    for i in reversed(range(len(symbols))):
        table, lane = tables[which[i]], i % len(states)
        f, c = table[symbols[i]], sum(table[: symbols[i]])
        if states[lane] >= f * 2**18:
            words.append(states[lane] % 2**16)
            states[lane] //= 2**16
        states[lane] = states[lane] // f * 2**14 + c + states[lane] % f
    words.reverse()
    return b"".join(
        [state.to_bytes(4, "little") for state in states if symbols]
        + [word.to_bytes(2, "little") for word in words]
    )


def plain_symbols(
    data: bytes, count: int, tables: list[list[int]], which: list[int]
) -> list[int]:
    """Return the symbols as docs/wire-format.md says they are read."""
    lanes = lanes_of(count)
    numbers = [
        int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)
    ]
    states = [numbers[2 * i] + 2**16 * numbers[2 * i + 1] for i in range(lanes)]
    words = iter(numbers[2 * lanes :])
    symbols = []
    for i in range(count):
        state, table = states[i % lanes], tables[which[i]]
        r, symbol, c = state % 2**14, 0, 0
        while c + table[symbol] <= r:
            c += table[symbol]
            symbol += 1
        state = table[symbol] * (state // 2**14) + r - c
        if state < 2**16:
            state = state * 2**16 + next(words)
        states[i % lanes] = state
        symbols.append(symbol)
    assert states == [2**16] * lanes and next(words, None) is None
    return symbols


counted = st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any)


def drawn(rng: np.random.Generator, table: np.ndarray, count: int) -> np.ndarray:
    return rng.choice(len(table), count, p=table / table.sum()).astype(np.uint16)


@given(counted, st.integers(0, 300), st.integers(0, 2**32))
def test_one_lane_is_the_plain_way(counts, count, seed):
    table = frequencies(np.array(counts))
    symbols = drawn(np.random.default_rng(seed), table, count)
    data = encode_symbols(symbols, table[None])
    plain = [table.tolist()], [0] * count
    assert data == plain_bytes(symbols.tolist(), *plain)
    decoded = decode_symbols(data, count, table[None])
    assert decoded.dtype == np.uint16 and decoded.tolist() == symbols.tolist()
    if count:
        assert plain_symbols(data, count, *plain) == symbols.tolist()


@pytest.mark.parametrize("count", LANES)
def test_many_lanes_are_the_plain_way(count):
    rng = np.random.default_rng(count)
    # One table is sure of its symbol, one has the rarest possible, one is even.
    tables = stacked(
        [
            np.array([0, TOTAL]),
            np.array([1, TOTAL - 2, 1]),
            np.full(16, TOTAL // 16),
            frequencies(rng.integers(0, 50, 40)),
        ]
    )
    which = rng.integers(0, len(tables), count).astype(np.uint8)
    symbols = np.zeros(count, np.uint16)
    for row, table in enumerate(tables):
        own = which == row
        symbols[own] = drawn(rng, table, own.sum())
    data = encode_symbols(symbols, tables, which)
    plain = tables.tolist(), which.tolist()
    assert data == plain_bytes(symbols.tolist(), *plain)
    assert plain_symbols(data, count, *plain) == symbols.tolist()
    assert (decode_symbols(data, count, tables, which) == symbols).all()


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 5461, 16383, 16384])
def test_the_quotient_is_exact_in_every_lane(size):
    """States near multiples of f and of 2**16 are where a reciprocal could fail."""
    tables = np.zeros((2, 3), np.int64)
    tables[0] = [size, TOTAL - size, 0]
    tables[1] = [1, 1, TOTAL - 2]
    rng = np.random.default_rng(size)
    count = 40_000
    which = (rng.random(count) < 0.2).astype(np.uint8)
    symbols = np.where(which, rng.integers(0, 3, count), 0).astype(np.uint16)
    data = encode_symbols(symbols, tables, which)
    assert data == plain_bytes(symbols.tolist(), tables.tolist(), which.tolist())


def test_lanes_are_few_for_few_symbols():
    assert [lanes_of(n) for n in (0, 1, 2**15 - 1)] == [1, 1, 1]
    assert [lanes_of(n) for n in (2**15, 2**16 - 1, 2**16)] == [32, 32, 64]
    assert [lanes_of(n) for n in (625_000, 2**21, 2**24)] == [512, 2048, 2048]


@pytest.mark.parametrize("count", [1000, 30_000, 33_000, 200_000])
def test_a_stream_is_within_one_percent_of_the_entropy(count):
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.4, count) - 1, 15).astype(np.uint16)
    counts = np.bincount(symbols)
    data = encode_symbols(symbols, frequencies(counts)[None])
    entropy = sum(n * log2(count / n) for n in counts.tolist() if n)
    assert 8 * len(data) <= 1.011 * entropy + 16


def test_a_symbol_that_cannot_be_coded_is_an_error():
    table = np.array([[TOTAL - 1, 0, 1]])
    for symbol, message in ((1, "a frequency above 0"), (3, "must be below 3, got 3")):
        with pytest.raises(ValueError, match=message):
            encode_symbols(np.array([0, symbol], np.uint16), table)


@pytest.mark.parametrize("count", [50, 40_000])
def test_only_the_exact_stream_is_accepted(count):
    rng = np.random.default_rng(1)
    table = frequencies(np.array([70, 20, 9, 1]))
    data = encode_symbols(drawn(rng, table, count), table[None])
    head = 4 * lanes_of(count)
    damaged = [
        b"",
        data[: head - 1],
        data[:-1],
        data[:-2],
        data + bytes(2),
        data + bytes(2 * count),
        bytes(4) + data[4:],
        b"\xff\xff\x00\x00" + data[4:],
        data[:head],
        bytes([data[0] ^ 1]) + data[1:],
        data[:-1] + bytes([data[-1] ^ 1]),
    ]
    for wrong in damaged:
        with pytest.raises(PayloadError, match="entropy-coded stream"):
            decode_symbols(memoryview(wrong), count, table[None])
    with pytest.raises(PayloadError, match="entropy-coded stream"):
        decode_symbols(data, 0, table[None])
    assert len(decode_symbols(b"", 0, table[None])) == 0


@given(st.binary(max_size=100), st.integers(0, 100), counted)
def test_any_bytes_only_raise_payload_errors(data, count, counts):
    table = frequencies(np.array(counts))
    try:
        symbols = decode_symbols(data, count, table[None])
    except PayloadError:
        return
    # What is accepted is the only stream of these symbols.
    assert encode_symbols(symbols, table[None]) == data


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_many_lanes_only_raises_payload_errors(seed):
    rng = np.random.default_rng(seed)
    table = frequencies(rng.integers(1, 1000, 30))
    data = bytearray(encode_symbols(drawn(rng, table, 33_000), table[None]))
    for at in rng.integers(0, len(data), 3):
        data[at] ^= 1 << rng.integers(0, 8)
    with pytest.raises(PayloadError, match="entropy-coded stream"):
        decode_symbols(bytes(data), 33_000, table[None])
