"""The base of a reply: the arrays that an update is added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector
from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    Form,
    is_numbers,
    is_parcel,
    open_download,
    record_of,
)


@dataclass(frozen=True, eq=False)
class Base:
    """A record that was sent to be trained.

    Attributes
    ----------
    record : ArrayRecord
        The arrays as the inner strategy has them: dense and exact.
    form : Form
        Which of them the payloads hold.
    sent : ArrayRecord
        What travelled: a parcel, or `record` itself.
    """

    record: ArrayRecord
    form: Form
    sent: ArrayRecord

    @property
    def exact(self) -> bool:
        """Whether clients start from the very arrays that the strategy has."""
        return not is_parcel(self.sent, DOWNLOAD)

    @cached_property
    def received(self) -> ArrayRecord:
        """The arrays that clients start from: masked and rounded."""
        return self.record if self.exact else open_download(self.sent)[1]

    def moved(self, update: Vector, whole: Mapping[str, Array]) -> ArrayRecord:
        """Return the arrays plus an update, in their own dtypes.

        Parameters
        ----------
        update : NDArray[np.float32], shape (N,)
            What is added to the arrays in the payload.
        whole : Mapping[str, Array]
            The other arrays, which replace those of the base.
        """
        arrays = dict(whole)
        for tensor, place in self.form.layout.slices():
            step = update[place].reshape(tensor.shape)
            arrays[tensor.name] = _plus(self.record[tensor.name], step)
        return record_of(self.form, arrays)

    def moved_to(self, trained: ArrayRecord) -> ArrayRecord:
        """Return the arrays plus the step from what was received to `trained`.

        What cannot be compared with what was received stays as it is.
        """
        if self.exact:
            return trained
        record = ArrayRecord()
        for name, array in trained.items():
            received = self.received.get(name)
            record[name] = array
            if (
                received is not None
                and received.shape == array.shape
                and is_numbers(received)
                and is_numbers(array)
            ):
                new, old = array.numpy(), received.numpy()
                exact = np.result_type(np.float32, new, old)
                step = np.subtract(new, old, dtype=exact)
                record[name] = _plus(self.record[name], step)
        return record


def _plus(array: Array, step: NDArray[Any]) -> Array:
    current = array.numpy()
    return Array(np.asarray(current + step, current.dtype))
