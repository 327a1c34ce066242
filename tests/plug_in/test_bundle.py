"""Small arrays that travel whole, as one: exact, and safe to read."""

import zlib

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.flower.transport.bundle import MOST_BYTES, bundled, unbundled
from flasc_flwr.flower.wire import array_record, message_bytes
from tests.plug_in.numpy_app import apart, mixed, run_wrapped

DTYPES = st.sampled_from(
    ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64"]
)


@given(
    st.lists(
        DTYPES.flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))
        ),
        max_size=5,
    )
)
def test_arrays_come_back_bit_for_bit(arrays):
    given = {3 * i: (f"n{i}", Array(array)) for i, array in enumerate(arrays)}
    data, inside = bundled(given)
    assert inside == set(given)
    again = unbundled(data) if data else {}
    assert again.keys() == given.keys()
    for index, (name, array) in given.items():
        other_name, other = again[index]
        assert other_name == name
        assert (other.dtype, other.shape) == (array.dtype, array.shape)
        assert other.numpy().tobytes() == array.numpy().tobytes()


def test_what_is_large_or_not_of_numbers_travels_by_itself():
    given = {
        0: ("large", Array(np.zeros(MOST_BYTES, np.float32))),
        1: ("other", Array("uint8", (3,), "somebody.else", b"abc")),
        2: ("broken", Array("float32", (3,), "numpy.ndarray", b"abc")),
        3: ("swapped", Array(np.zeros(3, ">f4"))),
        4: ("small", Array(np.arange(3.0))),
        5: ("empty", Array(np.zeros((0, 100_000), np.float32))),
        1 << 16: ("late", Array(np.arange(3.0))),
    }
    assert bundled(given)[1] == {4}
    unbundled(bundled(given)[0])
    given.pop(4)
    assert bundled(given) == (b"", set())
    long_names = {i: ("n" * 50_000 + str(i), Array(np.zeros(1))) for i in range(100)}
    assert bundled(long_names) == (b"", set())


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_are_arrays_or_an_error(data, place, byte):
    honest = bytearray(bundled({0: ("a", Array(np.arange(5.0)))})[0])
    honest[place % len(honest)] = byte
    for each in (data, bytes(honest), bytes(honest[:place]), bytes(honest) + b"x"):
        try:
            arrays = unbundled(each)
        except PayloadError as error:
            assert len(str(error)) < 100 and str(error).isprintable()
        else:
            assert all(isinstance(array, Array) for _, array in arrays.values())


def test_a_head_that_claims_more_than_there_is_takes_no_memory():
    for shape in ([MOST_BYTES] * 8, [1 << 40], [-1], "ab", [[1]]):
        head = zlib.compress(as_json([[0, "a", "float64", shape]]).encode())
        with pytest.raises(PayloadError):
            unbundled(len(head).to_bytes(4, "little") + head)


def test_a_message_is_shorter_by_the_heads_of_its_arrays():
    _, grid, _ = run_wrapped(rounds=1)
    message = grid.down[0]
    (short,) = message_bytes([message])
    message.content["arrays"] = apart(message.content["arrays"])
    (long,) = message_bytes([message])
    names = set(array_record(mixed())) - {"weight", "double", "half"}
    assert long - short > 300 * (len(names) - 1)
