"""Plain arrays as the bytes in which Flower carries them."""

import numpy as np
import pytest
from flwr.app import Array

from flasc_flwr.flower.npy import read, written

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.ones((2, 3), np.float16),
    "double": np.ones(5),
    "scalar": np.full((), 3, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "whole numbers": np.arange(5, dtype=np.uint8),
    "truth": np.array([True, False]),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "every second": np.arange(12, dtype=np.float32)[::2],
    "big endian": np.arange(3, dtype=">f4"),
    "complex": np.ones(3, np.complex64),
    "read-only": np.broadcast_to(np.float32(1), (2, 2)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_written_like_flower_writes_it_and_read_back(name: str) -> None:
    array = ARRAYS[name]
    carried = written(array)

    assert carried == Array(array)
    back = read(carried)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(carried.numpy(), array)


def test_what_is_read_lies_in_the_record_and_cannot_be_changed() -> None:
    carried = written(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        read(carried)[0] = 2


def test_a_copy_is_written() -> None:
    array = np.ones(3, np.float32)
    carried = written(array)
    array[:] = 2
    np.testing.assert_array_equal(read(carried), 1)


@pytest.mark.parametrize("cut", [0, 4, 8, 60, 130])
def test_bytes_that_are_cut_off_are_refused_like_flower_refuses_them(cut: int) -> None:
    whole = written(np.ones(3, np.float32))
    broken = Array(whole.dtype, whole.shape, whole.stype, whole.data[:cut])
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        broken.numpy()
    with pytest.raises(type(theirs.value)):
        read(broken)


def test_what_is_no_plain_array_is_refused() -> None:
    with pytest.raises(TypeError, match="Unsupported serialization type"):
        read(Array("uint8", (1,), "flasc.payload", b"\0"))


def test_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        written(np.array([object()]))
