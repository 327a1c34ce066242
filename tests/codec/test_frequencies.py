import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import (
    compact_table,
    frequencies,
    frequency_bytes,
    read_compact_table,
    read_frequencies,
    stacked,
)

TOTAL = 1 << 14
counted = st.lists(st.integers(0, 2**40), min_size=1, max_size=60).filter(any)


def plain_compact(data: bytes) -> list[int]:
    """Return the frequencies as docs/wire-format.md says they are read."""
    size, bits = data[0], int.from_bytes(data[1:], "little")
    codes = [bits >> 6 * i & 63 for i in range(size)]
    quarters = (16384, 19484, 23170, 27554)
    weights = [quarters[(q - 1) % 4] * 2 ** ((q - 1) // 4) if q else 0 for q in codes]
    free = TOTAL - sum(w > 0 for w in weights)
    table = [w * free // sum(weights) + (w > 0) for w in weights]
    by_weight = sorted(range(size), key=lambda i: -weights[i])
    for i in by_weight[: TOTAL - sum(table)]:
        table[i] += 1
    return table


@given(counted.filter(lambda counts: counts[-1] and sum(map(bool, counts)) > 1))
def test_frequencies_add_up_and_lose_no_symbol(counts):
    table = frequencies(np.array(counts))
    assert table.sum() == TOTAL
    assert ((table > 0) == (np.array(counts) > 0)).all()
    reader = Reader(frequency_bytes(table) + b"more")
    assert (read_frequencies(reader) == table).all()
    assert reader.left == 4


@given(counted)
def test_compact_tables_are_the_plain_way(counts):
    data = compact_table(np.array(counts))
    reader = Reader(data)
    table = read_compact_table(reader)
    reader.finish("table")
    used = len(table)
    assert len(data) == 1 + -(-6 * used // 8)
    assert table.sum() == TOTAL
    assert ((table > 0) == (np.array(counts[:used]) > 0)).all()
    assert not any(counts[used:])
    assert table.tolist() == plain_compact(data)
    # What was read can be written again: the codes are a function of the proportions.
    assert read_compact_table(Reader(compact_table(table))).sum() == TOTAL


@pytest.mark.parametrize("decay", [0.3, 0.5, 0.8, 0.95])
def test_a_compact_table_costs_few_per_mille(decay):
    counts = (1e6 * decay ** np.arange(40)).astype(np.int64) + 1
    table = read_compact_table(Reader(compact_table(counts)))
    share = counts / counts.sum()
    excess = (share @ np.log2(share / table * TOTAL)) / -(share @ np.log2(share))
    assert 0 <= excess <= 0.004


def test_counts_for_a_compact_table():
    for counts in ([], [0, 0], [1] * 65):
        with pytest.raises(ValueError, match="counts must have 1 to 64 symbols"):
            compact_table(np.array(counts, np.int64))
    assert compact_table(np.array([3, 0])) == bytes([1, 63])
    assert compact_table(np.array([0, 4, 1])) == bytes(
        [3, 0b11000000, 0b01110000 | 15, 3]
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x41" + bytes(49),
        b"\x01",
        b"\x01\x00",
        b"\x01\x7f",
        b"\x02\x3f\x00",
    ],
)
def test_corrupt_compact_tables_are_refused(data):
    with pytest.raises(PayloadError, match="compact table"):
        read_compact_table(Reader(data))


def test_stacked_tables_are_rows():
    rows = stacked([np.array([TOTAL]), np.array([1, TOTAL - 1])])
    assert rows.tolist() == [[TOTAL, 0], [1, TOTAL - 1]]


@pytest.mark.parametrize(
    "table",
    [[], [1 << 14], [0, 1 << 14], [1, 2], [1 << 13, 1 + (1 << 13)], [(1 << 35) - 1]],
)
def test_corrupt_frequencies_are_refused(table):
    data = b"".join(map(varint, table))
    with pytest.raises(PayloadError, match="frequencies"):
        read_frequencies(Reader(data))


def test_a_table_of_too_many_symbols_is_refused():
    with pytest.raises(PayloadError, match="frequencies: 4096 that add up to 4096"):
        read_frequencies(Reader(bytes([1]) * 16384))
