"""Which arrays of an ArrayRecord travel in the payload, and which travel whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.finite import LIMIT
from flasc_flwr.core.layout import FLOATING, Layout
from flasc_flwr.flower.compat import SType

_STATISTICS = {
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "moving_mean",
    "moving_variance",
    "inv_freq",
    "position_ids",
}
"""Last parts of the names of buffers that layers keep beside their weights."""

_LONGEST_STATISTIC = 4096
"""An array of one axis is taken for a flattened model only if it is longer."""

_FEWEST = 1024
"""Fewest entries of a record that is made sparse by default."""


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


def sparse_arrays(record: ArrayRecord, whole: Sequence[str] | None) -> tuple[int, ...]:
    """Return the indices of the arrays of a record that go into its payload.

    These are the floating-point arrays that `whole` does not name. By default they are
    those of two or more axes, apart from a layer's statistics: biases, scales and
    running statistics are small, and where they are not exact they do harm, as a model
    divides by its running variance. In a record without matrices they are those of one
    axis that are long enough to be a flattened model. A record of a few hundred entries
    travels whole, as what it could save is less than what a message has around it.

    Parameters
    ----------
    record : ArrayRecord
        The arrays to be sent.
    whole : Sequence[str], optional
        Names of arrays that travel whole, or shell patterns such as ``*.bias``.
    """
    numeric = {n: a for n, a in record.items() if is_numeric(a) and 0 not in a.shape}
    if whole is None:
        numeric = {n: a for n, a in numeric.items() if not is_statistic(n)}
        sparse = {n for n, a in numeric.items() if len(a.shape) >= 2}
        if not sparse:
            sparse = {n for n, a in numeric.items() if _is_flattened_model(a)}
        if sum(prod(numeric[name].shape) for name in sparse) < _FEWEST:
            sparse = set()
    else:
        sparse = {n for n in numeric if not any(fnmatchcase(n, p) for p in whole)}
    return tuple(i for i, name in enumerate(record) if name in sparse)


def finite_arrays(record: ArrayRecord, sparse: Collection[int]) -> tuple[int, ...]:
    """Return those of the arrays at the indices `sparse` that hold finite numbers.

    An infinity (a causal mask) or NaN has no place among the largest entries: such an
    array travels whole, as it would without sparse messages. So does one with numbers
    near the end of float32's range (a mask again), which a value format may not have.
    """
    chosen = set(sparse)
    return tuple(
        i
        for i, array in enumerate(record.values())
        if i in chosen and float(np.abs(array.numpy()).max(initial=0)) < LIMIT
    )


def is_statistic(name: str) -> bool:
    """Return whether an array's name is that of a layer's statistics or constants."""
    return name.rpartition(".")[2] in _STATISTICS


def _is_flattened_model(array: Array) -> bool:
    return len(array.shape) == 1 and array.shape[0] > _LONGEST_STATISTIC
