"""Small arrays that travel whole, as the bytes of one array.

Flower adds about 500 bytes to each array of a message: a name, digests, and numpy's
header. The biases and scales of a layer are often no larger than that.

The bytes have three parts: the length of a head (4 bytes, little-endian); the head,
deflated JSON with a row ``[index, name, dtype, shape]`` for each array; and the arrays'
numbers, one array after the other, little-endian and in C order.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.flower.compat import SType

MOST_BYTES = 1 << 16
"""Most bytes of an array in a bundle; larger ones travel as Flower's arrays."""

_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64", "complex64", "complex128"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
_MOST_AXES = 32
_MOST_HEAD = 1 << 22
_MOST_ARRAYS = 1 << 16
_LENGTH = 4

Beside = dict[int, tuple[str, Array]]
"""Arrays beside a payload, with their names, by their indices in the record."""


def bundled(arrays: Mapping[int, tuple[str, Array]]) -> tuple[bytes, set[int]]:
    """Return the bytes of the arrays that can travel together, and their indices."""
    rows: list[list[Any]] = []
    numbers = []
    for index, (name, array) in arrays.items():
        values = _small(array)
        if values is None or index >= _MOST_ARRAYS:
            continue
        rows.append([index, name, array.dtype, list(values.shape)])
        little = values.dtype.newbyteorder("<")
        numbers.append(np.ascontiguousarray(values, little).tobytes())
    text = as_json(rows, compact=True).encode()
    if not rows or len(text) >= _MOST_HEAD:
        return b"", set()
    head = zlib.compress(text, 9)
    length = len(head).to_bytes(_LENGTH, "little")
    return length + head + b"".join(numbers), {row[0] for row in rows}


def _small(array: Array) -> NDArray[Any] | None:
    """Return the numbers of an array that can travel with others, else None."""
    if array.stype != SType.NUMPY or len(array.data) > MOST_BYTES:
        return None
    if max(array.shape, default=0) > MOST_BYTES:
        return None  # an empty array may have long axes
    try:
        values = array.numpy()
    except Exception:
        return None  # sent as it is: its reader reports the error
    as_claimed = (values.dtype.name, values.shape) == (array.dtype, tuple(array.shape))
    return values if as_claimed and array.dtype in _DTYPES else None


def unbundled(data: bytes) -> Beside:
    """Return the arrays that travelled together, by their indices.

    Raises
    ------
    PayloadError
        If the bytes are corrupt.
    """
    length = int.from_bytes(data[:_LENGTH], "little")
    arrays: Beside = {}
    start = _LENGTH + length
    for index, name, dtype, shape in _rows(data[_LENGTH:start]):
        kind = np.dtype(dtype).newbyteorder("<")
        size = prod(shape) * kind.itemsize
        if index in arrays or start + size > len(data):
            raise PayloadError(
                "bundle: two arrays have one index, or bytes are missing"
            )
        values = np.frombuffer(data[start : start + size], kind).reshape(shape)
        arrays[index] = name, Array(values.astype(dtype))
        start += size
    if start != len(data):
        raise PayloadError(f"bundle: {len(data) - start} bytes too many")
    return arrays


def _rows(head: bytes) -> list[tuple[int, str, str, list[int]]]:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(head, _MOST_HEAD)
        rows = json.loads(text) if inflater.eof and not inflater.unused_data else None
    except (zlib.error, ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or len(rows) > _MOST_ARRAYS:
        raise PayloadError("bundle: the head cannot be read")
    if not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise PayloadError("bundle: a row of the head must have 4 entries")
    return [_row(*row) for row in rows]


def _row(
    index: Any, name: Any, dtype: Any, shape: Any
) -> tuple[int, str, str, list[int]]:
    fits = (
        type(index) is int
        and 0 <= index < _MOST_ARRAYS
        and isinstance(name, str)
        and isinstance(dtype, str)
        and dtype in _DTYPES
        and isinstance(shape, list)
        and len(shape) <= _MOST_AXES
        and all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape)
    )
    if not fits:
        raise PayloadError("bundle: a row of the head has wrong types or sizes")
    return index, name, dtype, shape
