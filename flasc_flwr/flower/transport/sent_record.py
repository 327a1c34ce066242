"""An ArrayRecord that was sent to clients, and the same plus a client's update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector
from flasc_flwr.flower.transport.form import Form, is_numeric
from flasc_flwr.flower.transport.parcel import open_download


@dataclass(frozen=True, eq=False)
class SentRecord:
    """An ArrayRecord that was sent to clients, and what travelled in its place.

    Attributes
    ----------
    arrays : ArrayRecord
        The arrays of the inner strategy: dense, neither masked nor rounded.
    form : Form
        Which of them the payload holds.
    parcel : ArrayRecord, optional
        What travelled instead; None if the arrays did.
    """

    arrays: ArrayRecord
    form: Form
    parcel: ArrayRecord | None

    @cached_property
    def received(self) -> ArrayRecord:
        """The arrays that clients start from: masked and rounded."""
        return self.arrays if self.parcel is None else open_download(self.parcel)[1]

    def plus(self, update: Vector, whole: Mapping[str, Array]) -> ArrayRecord:
        """Return the strategy's arrays plus an update, in their own dtypes.

        Parameters
        ----------
        update : NDArray[np.float32], shape (N,)
            Added to the arrays in the payload.
        whole : Mapping[str, Array]
            The other arrays, which replace those that were sent.
        """
        arrays = dict(whole)
        for tensor, place in self.form.layout.slices():
            step = update[place].reshape(tensor.shape)
            arrays[tensor.name] = _add(self.arrays[tensor.name], step)
        return self.form.in_order(arrays)

    def plus_training(self, trained: ArrayRecord) -> ArrayRecord:
        """Return the strategy's arrays plus trained minus received.

        Arrays that cannot be compared with what was received are returned unchanged.
        """
        if self.parcel is None:
            return trained
        record = ArrayRecord()
        for name, array in trained.items():
            received = self.received.get(name)
            record[name] = array
            if (
                received is not None
                and received.shape == array.shape
                and is_numeric(received)
                and is_numeric(array)
            ):
                new, old = array.numpy(), received.numpy()
                wide = np.result_type(np.float32, new, old)
                step = np.subtract(new, old, dtype=wide)
                record[name] = _add(self.arrays[name], step)
        return record


def _add(array: Array, step: NDArray[Any]) -> Array:
    current = array.numpy()
    return Array(np.asarray(current + step, current.dtype))
