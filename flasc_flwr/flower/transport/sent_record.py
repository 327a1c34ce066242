"""An ArrayRecord that was sent to clients, which their updates are added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.layout import Vector
from flasc_flwr.flower.feedback.reminder import Reminder
from flasc_flwr.flower.npy import read, written
from flasc_flwr.flower.transport.download_parcel import (
    open_download,
    packed_download,
    with_payload,
)
from flasc_flwr.flower.transport.evidence import AUTO, UPDATES, are_trained
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import EMPTY


@dataclass(frozen=True, eq=False)
class Following:
    """A record that travels as the way to a reference.

    Attributes
    ----------
    stream : Stream
        The stream of this record.
    reference : Reference
        Its newest reference, when the record was sent.
    form : Form
        Form of the record.
    arrays : ArrayRecord
        The record.
    """

    stream: Stream
    reference: Reference
    form: Form
    arrays: ArrayRecord
    _ways: dict[bytes | None, tuple[Reminder, ArrayRecord]] = field(
        default_factory=dict
    )

    def way(
        self, reminder: Reminder, held: bytes | None
    ) -> tuple[Reminder, ArrayRecord]:
        """Return the way from the reference that a device holds to the newest one.

        It is encoded once for all devices that hold the same.

        Parameters
        ----------
        reminder : Reminder
            What the message says about the device's memory otherwise.
        held : bytes or None
            Version of the reference that it holds.
        """
        if held not in self._ways:
            made, data = Reminder(round=0).with_way(self.stream.catch_up(held))
            self._ways[held] = made, self._parcel(data)
        way, parcel = self._ways[held]
        return reminder.along(way), parcel

    @cached_property
    def alone(self) -> ArrayRecord:
        """The reference as a download that needs no memory."""
        return self._parcel(self.stream.whole)

    def _parcel(self, payload: bytes) -> ArrayRecord:
        return packed_download(self.form, payload, self.arrays)


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
        What travelled instead; None if the arrays or the way to a reference travelled.
    following : Following, optional
        The way to a reference, if that travelled.
    word : str
        What replies hold: one of :data:`~.evidence.WORDS`.
    not_finite : tuple[str, ...]
        Names of the arrays that travel whole as they hold NaN, infinity or numbers near
        the end of float32's range.
    """

    arrays: ArrayRecord
    form: Form
    parcel: ArrayRecord | None = None
    following: Following | None = None
    word: str = AUTO
    not_finite: tuple[str, ...] = ()

    @property
    def is_encoded(self) -> bool:
        """Whether the arrays did not travel as they are."""
        return self.parcel is not None or self.following is not None

    @cached_property
    def received(self) -> ArrayRecord:
        """The arrays that clients start from, rounded and perhaps masked."""
        if self.following is not None:
            beside = packed_download(self.form, b"", self.arrays)
            vector = self.following.reference.vector
            return with_payload(beside, self.form.layout, vector)[1]
        return self.arrays if self.parcel is None else open_download(self.parcel)[1]

    def plus(
        self, update: Vector, reply: Mapping[str, Array] | None = None
    ) -> ArrayRecord:
        """Return the strategy's arrays plus an update, in their own dtypes.

        If replies are updates themselves, return only the update.

        Parameters
        ----------
        update : NDArray[np.float32], shape (N,)
            Added to the arrays in the payload.
        reply : Mapping[str, Array], optional
            Arrays to return, by name and in this order (default: those sent). Arrays
            that travelled whole replace those that were sent.
        """
        record = ArrayRecord()
        places = {t.name: (t, place) for t, place in self.form.layout.slices()}
        for name, array in (reply or self.arrays).items():
            if name not in places or (reply and array is not EMPTY):
                record[name] = array
                continue
            tensor, place = places[name]
            step = update[place].reshape(tensor.shape)
            record[name] = _add(self.arrays[name], step, self.word)
        return record

    def plus_training(self, trained: ArrayRecord) -> ArrayRecord:
        """Return the strategy's arrays plus trained minus received.

        A record of updates, or of anything else that is not the received arrays after
        training, is returned unchanged.
        """
        names = self.part_in(trained)
        if not self.is_encoded or not names or self.word == UPDATES:
            return trained
        if self.word == AUTO and not are_trained(self.received, trained, names):
            return trained
        record = ArrayRecord(dict(trained))
        for name in names:
            new, old = read(trained[name]), read(self.received[name])
            wide = np.result_type(np.float32, new, old)
            step = np.subtract(new, old, dtype=wide)
            record[name] = _add(self.arrays[name], step)
        return record

    def part_in(self, trained: ArrayRecord) -> list[str]:
        """Return the names of the payload's arrays that a reply also has."""
        tensors = self.form.layout.tensors
        return [tensors[index].name for index in self.form.part_in(trained)]


def _add(array: Array, step: NDArray[Any], word: str = AUTO) -> Array:
    current = read(array)
    if word == UPDATES:
        return written(step.astype(current.dtype))
    return written(np.asarray(current + step, current.dtype))
