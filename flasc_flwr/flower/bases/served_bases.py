"""Bases at the server: encoded once for each rank, and who holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from flasc_flwr.core.layout import Arrays, Layout
from flasc_flwr.core.measured_bases import basis_format, encode_bases
from flasc_flwr.core.ranks import truncation
from flasc_flwr.flower.bases.device_bases import HELD, held_in, version_of
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.wire import CONTROL, payload_record


class LacksBasesError(ValueError):
    """A device answered that it lacks the bases of the run."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The bases of one rank, as they travel.

    Attributes
    ----------
    version : bytes
        Their version.
    record : ArrayRecord
        Their payload; shared by all messages that carry it.
    """

    version: bytes
    record: ArrayRecord


class ServedBases:
    """The measured bases of a run, and which devices hold them.

    A device is known to hold them once it says so, or has replied to a message that
    needs them. Nothing of that is in checkpoints: devices say it when they introduce
    themselves, and one that says nothing is sent them.

    Parameters
    ----------
    arrays : Arrays
        The bases of the full rank, rounded by the format that they travel in.
    values : str
        Value format of the run.
    """

    def __init__(self, arrays: Arrays, values: str) -> None:
        self.arrays = arrays
        self._layout = Layout.of(arrays)
        self._vector = self._layout.flatten(arrays)
        self._values = basis_format(values)
        self._encoded: dict[int, Encoded] = {}
        self._held: dict[str, bytes | None] = {}

    def at(self, rank: int) -> Encoded:
        """Return the first `rank` columns of every B and rows of every A, encoded."""
        if rank not in self._encoded:
            cut = truncation(self._layout, rank)
            kept = cut.truncate(self._vector)
            payload = encode_bases(cut.layout, kept, self._values)
            record = payload_record(payload)
            self._encoded[rank] = Encoded(version_of(payload), record)
        return self._encoded[rank]

    def introduced(self, name: str, settings: Mapping[str, Any]) -> None:
        """Note which version a device says that it holds."""
        self._held[name] = held_in(settings)

    def holds(self, name: str, rank: int) -> bool:
        """Return whether a device is known to hold the bases of a rank."""
        return self._held.get(name) == self.at(rank).version

    def heard(self, name: str, reply: Message, rank: int) -> None:
        """Note what a reply to a message that needs them says about a device's bases.

        Raises
        ------
        LacksBasesError
            If the device could not use its message.
        """
        control = records_of(reply.content, ConfigRecord).get(CONTROL, ConfigRecord())
        if HELD in control:
            self._held[name] = held_in(control)
            raise LacksBasesError(
                "the device lacks the bases of the run; the next message has them"
            )
        self._held[name] = self.at(rank).version
