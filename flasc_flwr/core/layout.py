"""The layout of an adapter: its tensors, and where each lies in the vector."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flasc_flwr.core.cores import is_core
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.printable import printable

Vector = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]

FINGERPRINT_BYTES = 8

FLOATING = ("float16", "float32", "float64")
"""Dtypes that a layout allows."""

_MAGNITUDE = "lora_magnitude_vector"
"""What PEFT calls DoRA's lengths of the rows of a weight."""

_MOST_AXES = 32
_LONGEST_AXIS = 1 << 48
_LORA = re.compile(r"(^|[._])lora_(?:embedding_)?(?P<factor>[AB])([._]|$)")
_CORE = re.compile(r"(^|[._])lora_core$")
_CHUNK = 1 << 18


def chunks(size: int) -> Iterator[slice]:
    """Yield consecutive slices that cover a vector of length `size`.

    Computing chunk by chunk keeps temporaries small: they would be many times the
    adapter otherwise. All but the last have a power of two entries: whole bytes of
    packed bits, and whole groups of the value formats.
    """
    return (slice(start, start + _CHUNK) for start in range(0, size, _CHUNK))


class Role(StrEnum):
    """What a tensor is in its adapter."""

    A = "A"
    B = "B"
    CORE = "core"
    HEAD = "head"
    OTHER = "other"


@dataclass(frozen=True)
class Tensor:
    """One tensor of an adapter: its name, shape, dtype and role."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The ordered tensors of an adapter, which define every position of its vector.

    Two parties mean the same by a vector if and only if their layouts have the same
    fingerprint.
    """

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, arrays: Mapping[str, ArrayLike], roles: Mapping[str, Role] | None = None
    ) -> Layout:
        """Return the layout of `arrays`, in their order.

        Parameters
        ----------
        arrays : Mapping[str, ArrayLike]
            Name to array; any shape, dtype float16, float32 or float64.
        roles : Mapping[str, Role], optional
            Roles by name, where PEFT's naming does not say. By default, ``lora_A`` and
            ``lora_B`` in a name mean the factors, ``lora_core`` at its end a core, and
            DoRA's magnitudes are ``other``; any other tensor is ``head`` if there are
            factors or cores (PEFT's saved modules), else ``other``.

        Raises
        ------
        ValueError
            If there is no array, or the dtype of one is not allowed.
        """
        if not arrays:
            raise ValueError("a layout needs at least one array, got none")
        has_lora = any(_LORA.search(name) or _CORE.search(name) for name in arrays)
        tensors = []
        for name, value in arrays.items():
            array = np.asarray(value)
            if array.dtype.name not in FLOATING:
                raise ValueError(
                    f"array {name!r} has dtype {array.dtype}, allowed are "
                    + ", ".join(FLOATING)
                )
            role = (roles or {}).get(name) or _role_of(name, array.shape, has_lora)
            tensors.append(Tensor(name, array.shape, array.dtype.name, role))
        return cls(tuple(tensors))

    @cached_property
    def size(self) -> int:
        """N, the number of entries of the adapter."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that identify the layout: the start of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).digest()[:FINGERPRINT_BYTES]

    def slices(self) -> Iterator[tuple[Tensor, slice]]:
        """Yield each tensor with its place in the vector."""
        start = 0
        for tensor in self.tensors:
            yield tensor, slice(start, start + tensor.size)
            start += tensor.size

    def counts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count how many of some ascending positions lie in each tensor."""
        edges = np.cumsum([0, *(tensor.size for tensor in self.tensors)])
        return np.diff(np.searchsorted(positions, edges)).astype(np.int64)

    def flatten(self, arrays: Mapping[str, ArrayLike]) -> Vector:
        """Put `arrays` into one float32 vector of length N, in layout order.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs.
        """
        self._check_names(arrays)
        vector = np.empty(self.size, np.float32)
        for tensor, place in self.slices():
            array = np.asarray(arrays[tensor.name])
            if array.shape != tensor.shape:
                raise ValueError(
                    f"array {tensor.name!r} has shape {array.shape}, "
                    f"expected {tensor.shape}"
                )
            vector[place] = array.ravel()
        return vector

    def unflatten(self, vector: Vector) -> Arrays:
        """Cut `vector`, of length N, into named arrays of the layout's dtypes.

        Raises
        ------
        ValueError
            If the shape of the vector is not (N,).
        """
        return {name: np.array(array) for name, array in self.views(vector).items()}

    def views(self, vector: Vector) -> Arrays:
        """Cut `vector` as :meth:`unflatten`, but share its memory where dtypes agree.

        Raises
        ------
        ValueError
            If the shape of the vector is not (N,).
        """
        if vector.shape != (self.size,):
            raise ValueError(
                f"vector has shape {vector.shape}, the layout needs ({self.size},)"
            )
        return {
            tensor.name: vector[place]
            .reshape(tensor.shape)
            .astype(tensor.dtype, copy=False)
            for tensor, place in self.slices()
        }

    def to_json(self) -> str:
        """Return the canonical JSON text, of which the fingerprint is taken."""
        rows = [[t.name, list(t.shape), t.dtype, t.role.value] for t in self.tensors]
        return as_json(rows, compact=True)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Rebuild a layout from :meth:`to_json`.

        Raises
        ------
        ValueError
            If the text is not a layout.
        """
        try:
            tensors = tuple(_tensor_of(*row) for row in json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a layout: {printable(error)}") from None
        if not tensors or len({t.name for t in tensors}) != len(tensors):
            raise ValueError("not a layout: it has no tensors, or a name twice")
        return cls(tensors)

    def _check_names(self, arrays: Mapping[str, Any]) -> None:
        known = {tensor.name for tensor in self.tensors}
        missing = [name for name in known if name not in arrays]
        unknown = [name for name in arrays if name not in known]
        if missing or unknown:
            raise ValueError(
                "arrays do not fit the layout: "
                f"missing {sorted(missing) or 'none'}, "
                f"unknown {sorted(unknown) or 'none'}"
            )


def _role_of(name: str, shape: tuple[int, ...], has_lora: bool) -> Role:
    if match := _LORA.search(name):
        return Role(match["factor"])
    if _CORE.search(name):
        return Role.CORE if is_core(shape) else Role.OTHER
    if _MAGNITUDE in name:
        return Role.OTHER
    return Role.HEAD if has_lora else Role.OTHER


def _tensor_of(name: Any, shape: Any, dtype: Any, role: Any) -> Tensor:
    if not isinstance(name, str):
        raise ValueError(f"the name of a tensor must be text, got {name!r}")
    if not (isinstance(shape, list) and len(shape) <= _MOST_AXES) or not all(
        type(length) is int and 0 <= length < _LONGEST_AXIS for length in shape
    ):
        raise ValueError(f"{name!r} has an invalid shape: {shape!r}")
    if dtype not in FLOATING:
        raise ValueError(f"{name!r} has dtype {dtype!r}")
    tensor = Tensor(name, tuple(shape), dtype, Role(role))
    if tensor.role == Role.CORE and not is_core(tensor.shape):
        raise ValueError(f"{name!r} is not a stack of square heads: {shape!r}")
    return tensor
