"""How the arrays of an ArrayRecord travel: in the payload, or whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.layout import FLOATING, Layout
from flasc_flwr.flower.compat import SType


@dataclass(frozen=True, eq=False)
class Form:
    """How the arrays of an ArrayRecord travel.

    Attributes
    ----------
    names : tuple[str, ...]
        All arrays, in the order of the ArrayRecord.
    layout : Layout
        Those in the payload. The others travel whole.
    """

    names: tuple[str, ...]
    layout: Layout

    @classmethod
    def of(cls, record: ArrayRecord, sparse: Collection[int]) -> Form:
        """Describe a record whose payload holds the arrays at the indices `sparse`.

        Raises
        ------
        ValueError
            If they are not all floating-point arrays of the record.
        """
        chosen = set(sparse)
        # Arrays without memory: only their shapes and dtypes matter here.
        shapes = {
            name: np.broadcast_to(np.zeros((), array.dtype), array.shape)
            for index, (name, array) in enumerate(record.items())
            if index in chosen and is_numeric(array)
        }
        if len(shapes) < len(chosen):
            raise ValueError(
                f"the record must have floating-point arrays at {len(chosen)} "
                f"indices, got {len(shapes)}"
            )
        return cls(tuple(record), Layout.of(shapes))

    @property
    def sparse(self) -> tuple[int, ...]:
        """Indices of the arrays in the payload."""
        return tuple(i for i in range(len(self.names)) if i not in self.whole)

    @cached_property
    def whole(self) -> dict[int, str]:
        """Names of the arrays that travel whole, by index."""
        in_payload = {tensor.name for tensor in self.layout.tensors}
        return {i: name for i, name in enumerate(self.names) if name not in in_payload}

    def part_in(self, record: ArrayRecord) -> tuple[int, ...]:
        """Return which tensors of the layout a record has under the same names.

        By index, and only those that have the same shape and floating-point numbers.
        """
        return tuple(
            index
            for index, tensor in enumerate(self.layout.tensors)
            if tensor.name in record
            and is_numeric(record[tensor.name])
            and tuple(record[tensor.name].shape) == tensor.shape
        )

    def fits(self, record: ArrayRecord) -> bool:
        """Return whether a record has these names, and these shapes in the payload."""
        part = self.part_in(record)
        return set(record) == set(self.names) and len(part) == len(self.layout.tensors)

    def in_order(self, arrays: Mapping[str, Array]) -> ArrayRecord:
        """Return an ArrayRecord of `arrays`, which have these names, in this order."""
        record = ArrayRecord()
        for name in self.names:
            record[name] = arrays[name]
        return record


def is_numeric(array: Array) -> bool:
    """Return whether an Array holds floating-point numbers that a layout may have."""
    return array.stype == SType.NUMPY and array.dtype in FLOATING


def equal_arrays(one: ArrayRecord, other: ArrayRecord) -> bool:
    """Return whether two records have the same arrays, in the same order."""
    if one is other:
        return True
    return list(one) == list(other) and all(
        a is b or (a.dtype, a.shape, a.data) == (b.dtype, b.shape, b.data)
        for a, b in zip(one.values(), other.values(), strict=True)
    )
