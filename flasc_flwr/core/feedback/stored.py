"""Both sides' memory as named arrays, for a node's state and for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.feedback.grid import halves, of_halves
from flasc_flwr.core.feedback.memory import DeviceMemory, Reply
from flasc_flwr.core.feedback.reference import VERSION_BYTES, Reference
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.layout import Layout, Vector

Stored = dict[str, NDArray[Any]]
"""Arrays of plain dtypes by name: float32, uint8, uint16 and int64."""


def store_stream(stream: Stream) -> Stored:
    """Return a stream as arrays; its layout is known where it is restored."""
    return {
        **_of_reference(stream.reference),
        "base": _bytes(stream.base),
        **_joined(stream.payloads),
    }


def restore_stream(stored: Mapping[str, NDArray[Any]], layout: Layout) -> Stream:
    """Return the stream that was stored.

    Raises
    ------
    ValueError
        If the arrays are not those of a stream of this layout.
    """
    return Stream(
        _reference(stored, layout),
        _version(stored, "base"),
        _parted(stored),
    )


def store_memory(memory: DeviceMemory, *, half: bool = False) -> Stored:
    """Return a device's memory as arrays.

    Parameters
    ----------
    memory : DeviceMemory
        The memory.
    half : bool
        Keep the residual in bfloat16: half its size, rounded to 8 significant bits.
    """
    residual: NDArray[Any] = memory.residual
    if half:
        residual = halves(memory.residual)
    trained = -1 if memory.trained is None else memory.trained
    stored = {
        "layout": _bytes(memory.layout.to_json().encode()),
        "residual": residual,
        "trained": np.asarray([trained], np.int64),
        "rounds": np.asarray([r.round for r in memory.unconfirmed], np.int64),
        **_joined([reply.payload for reply in memory.unconfirmed]),
    }
    if memory.run:
        stored["run"] = _bytes(memory.run)
    if memory.reference is not None:
        stored |= _of_reference(memory.reference)
    return stored


def restore_memory(stored: Mapping[str, NDArray[Any]]) -> DeviceMemory:
    """Return the memory that was stored.

    Raises
    ------
    ValueError
        If the arrays are not those of a device's memory.
    """
    layout = Layout.from_json(_array(stored, "layout", np.uint8).tobytes().decode())
    rounds = _array(stored, "rounds", np.int64).tolist()
    payloads = _parted(stored)
    if len(rounds) != len(payloads):
        raise ValueError(f"stored are {len(payloads)} replies of {len(rounds)} rounds")
    trained = _array(stored, "trained", np.int64)
    if trained.shape != (1,):
        raise ValueError("the last round must be one number")
    return DeviceMemory(
        layout,
        _residual(stored, layout),
        _reference(stored, layout) if "reference" in stored else None,
        [Reply(*each) for each in zip(rounds, payloads, strict=True)],
        int(trained[0]) if trained[0] >= 0 else None,
        _array(stored, "run", np.uint8).tobytes() if "run" in stored else b"",
    )


def _residual(stored: Mapping[str, NDArray[Any]], layout: Layout) -> Vector:
    return _vector(stored, "residual", layout).copy()


def _of_reference(reference: Reference) -> Stored:
    """Return a reference as arrays: on the grid of bfloat16, in half the bytes."""
    vector: NDArray[Any] = reference.vector
    if reference.grid == "bfloat16":
        vector = halves(vector)
    return {"reference": vector, "version": _bytes(reference.version)}


def _reference(stored: Mapping[str, NDArray[Any]], layout: Layout) -> Reference:
    vector = _vector(stored, "reference", layout)
    grid = "bfloat16" if stored["reference"].dtype == np.uint16 else "float32"
    return Reference(layout, vector, _version(stored, "version"), grid)


def _vector(stored: Mapping[str, NDArray[Any]], name: str, layout: Layout) -> Vector:
    """Return a vector that is stored in float32, or as bits in bfloat16."""
    array = stored.get(name)
    if array is not None and array.dtype == np.uint16 and array.ndim == 1:
        return _of_size(of_halves(array), layout)
    return _of_size(_array(stored, name, np.float32), layout)


def _of_size(vector: Vector, layout: Layout) -> Vector:
    if vector.shape != (layout.size,) or not np.isfinite(vector).all():
        raise ValueError(
            f"a stored vector must have {layout.size} finite values, got shape "
            f"{vector.shape}"
        )
    return vector


def _version(stored: Mapping[str, NDArray[Any]], name: str) -> bytes:
    version = _array(stored, name, np.uint8).tobytes()
    if len(version) != VERSION_BYTES:
        raise ValueError(f"{name!r} must be {VERSION_BYTES} bytes, got {len(version)}")
    return version


def _joined(payloads: Sequence[bytes]) -> Stored:
    return {
        "payloads": _bytes(b"".join(payloads)),
        "lengths": np.asarray([len(p) for p in payloads], np.int64),
    }


def _parted(stored: Mapping[str, NDArray[Any]]) -> list[bytes]:
    joined = _array(stored, "payloads", np.uint8).tobytes()
    lengths = _array(stored, "lengths", np.int64)
    if lengths.min(initial=0) < 0 or lengths.sum() != len(joined):
        raise ValueError("the lengths of the stored payloads do not fit")
    ends = np.cumsum(lengths).tolist()
    return [joined[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _array(stored: Mapping[str, NDArray[Any]], name: str, dtype: Any) -> NDArray[Any]:
    array = stored.get(name)
    if array is None or array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{name!r} must be a vector of {np.dtype(dtype)}")
    return array
