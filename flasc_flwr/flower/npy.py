"""Plain arrays as the bytes in which Flower carries them, with one copy or none.

Flower writes arrays by ``numpy.save`` and reads them by ``numpy.load``, through buffers
in memory: several copies of an adapter each way. The bytes here are the same.
"""

from __future__ import annotations

from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy
from numpy.typing import NDArray

from flasc_flwr.flower.compat import SType

_START = npy.magic(1, 0)
"""How the bytes of an array of numbers begin."""

_KINDS = "fiub"


def written(array: NDArray[Any]) -> Array:
    """Return an array as Flower carries it: equal to ``Array(array)``."""
    if not array.flags.c_contiguous or array.dtype.kind not in _KINDS:
        return Array(array)
    header = BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    # One copy: `join` reads the array's own memory.
    data = b"".join((header.getvalue(), array.data))
    return Array(str(array.dtype), tuple(array.shape), SType.NUMPY, data)


def read(array: Array) -> NDArray[Any]:
    """Return an array that Flower carries: equal to ``array.numpy()``, but read-only.

    It lies in the bytes of `array` where these are numbers in C order, which is what
    :func:`written` and Flower write; otherwise it is read as Flower does.

    Raises
    ------
    ValueError
        If the bytes are not those of an array.
    TypeError
        If the record holds no plain array.
    """
    if array.stype != SType.NUMPY or not array.data.startswith(_START):
        return array.numpy()
    stream = BytesIO(array.data)  # no copy: it shares the bytes
    stream.seek(len(_START))
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    start, count = stream.tell(), prod(shape)
    fits = len(array.data) - start == count * dtype.itemsize
    if fortran or dtype.kind not in _KINDS or not fits:
        return array.numpy()
    return np.frombuffer(array.data, dtype, count, start).reshape(shape)
