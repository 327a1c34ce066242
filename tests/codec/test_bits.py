import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec.bits import (
    Reader,
    pack,
    pack_bits,
    pack_unary,
    packed_length,
    unpack,
    unpack_bits,
    unpack_unary,
    varint,
)
from flasc_flwr.core.codec.errors import PayloadError


@given(width=st.integers(0, 31), data=st.data())
def test_packed_integers_come_back(width, data):
    numbers = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = pack(np.array(numbers, np.uint32), width)
    assert len(packed) == packed_length(len(numbers), width)
    assert unpack(memoryview(packed), len(numbers), width, "x").tolist() == numbers


@given(width=st.integers(1, 7), data=st.data())
def test_packing_is_lowest_bit_first(width, data):
    numbers = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    whole = sum(number << i * width for i, number in enumerate(numbers))
    length = packed_length(len(numbers), width)
    assert pack(np.array(numbers, np.uint32), width) == whole.to_bytes(length, "little")


def test_wide_integers_lie_in_planes():
    assert pack(np.array([0x1ABCD, 0x11234], np.uint32), 17) == bytes.fromhex(
        "cd34ab1203"
    )


@pytest.mark.parametrize("width", [3, 8, 13])
def test_many_integers_are_packed_as_if_in_one_run(width):
    count = 2 * (1 << 18) + 13
    numbers = np.random.default_rng(0).integers(0, 1 << width, count).astype(np.uint16)
    planes, rest = divmod(width, 8)
    expected = b"".join((numbers >> 8 * p).astype(np.uint8) for p in range(planes))
    if rest:
        bits = (numbers[:, None] >> np.arange(8 * planes, width)) & 1
        expected += np.packbits(bits.astype(bool), bitorder="little").tobytes()
    packed = pack(numbers, width)
    assert packed == expected
    assert (unpack(memoryview(packed), count, width, "x") == numbers).all()


@given(st.lists(st.integers(0, 30), max_size=60))
def test_unary_numbers_come_back(numbers):
    data = pack_unary(np.array(numbers, np.uint32))
    limit = sum(numbers) + len(numbers)
    assert unpack_unary(memoryview(data), len(numbers), limit, "x").tolist() == numbers


def test_long_unary_streams_come_back():
    numbers = np.random.default_rng(0).geometric(0.1, 200_000).astype(np.uint32)
    numbers[1000] = 3_000_000
    data = memoryview(pack_unary(numbers))
    limit = int(numbers.sum()) + len(numbers)
    assert (unpack_unary(data, len(numbers), limit, "x") == numbers).all()


@pytest.mark.parametrize(
    ("data", "count", "limit"),
    [
        (b"\x00", 1, 8),
        (b"\x03", 1, 8),
        (b"\x01\x00", 1, 16),
        (b"\x00", 0, 8),
        (b"\x00\x00\x80", 1, 16),
    ],
)
def test_a_corrupt_unary_stream_is_refused(data, count, limit):
    with pytest.raises(PayloadError, match="^x: "):
        unpack_unary(memoryview(data), count, limit, "x")


def test_set_bits_behind_the_last_are_refused():
    with pytest.raises(PayloadError, match="after the last"):
        unpack(memoryview(b"\x80"), 2, 3, "x")
    with pytest.raises(PayloadError, match="after the last"):
        unpack_bits(memoryview(b"\x08"), 3, "x")


@given(st.lists(st.booleans(), max_size=40))
def test_flags_come_back(flags):
    packed = pack_bits(np.array(flags, np.bool_))
    assert unpack_bits(memoryview(packed), len(flags), "x").tolist() == flags


@given(st.integers(0, 2**35 - 1))
def test_varints_come_back(number):
    reader = Reader(varint(number))
    assert reader.varint("x") == number
    reader.finish("x")


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\x80" * 6])
def test_a_corrupt_varint_is_refused(data):
    with pytest.raises(PayloadError, match="^x: "):
        Reader(data).varint("x")


def test_a_reader_never_reads_past_the_end():
    reader = Reader(b"abc")
    assert reader.take(2, "x") == b"ab"
    with pytest.raises(PayloadError, match="x: 2 bytes at byte 2, only 1 are left"):
        reader.take(2, "x")
    with pytest.raises(PayloadError, match="1 bytes are left over"):
        reader.finish("x")
