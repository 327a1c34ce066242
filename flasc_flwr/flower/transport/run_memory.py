"""What a SparseTransport remembers in a run: references, and which replies it took."""

from __future__ import annotations

import secrets
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from flasc_flwr.core.feedback.stream import Compress
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.feedback.fleet_memory import FleetMemory
from flasc_flwr.flower.feedback.reminder import RUN_BYTES, Reminder
from flasc_flwr.flower.transport.download_parcel import vector_of
from flasc_flwr.flower.transport.form import Form, equal_arrays
from flasc_flwr.flower.transport.reference_payloads import (
    payload_towards,
    whole_payload,
)
from flasc_flwr.flower.transport.remarks import Remarks
from flasc_flwr.flower.transport.sent_record import Following
from flasc_flwr.flower.transport.transport_settings import TransportSettings

Place = tuple[int, str]
"""One memory: the id of its node, and the key of its ArrayRecord."""

MOST_FORMS = 4
"""Most forms of a record whose references are kept, at up to 6 bytes an entry each."""


@dataclass
class _Target:
    """What a stream was last moved to, and the round that trained from it."""

    checksum: int | None = None
    trained: int = 0


class RunMemory:
    """What is remembered of all devices, by key of their ArrayRecords.

    Parameters
    ----------
    settings : TransportSettings
        How arrays are sent.

    Attributes
    ----------
    round : int
        Number of exchanges that asked for training.
    waiting : Counter[Place]
        How many messages that ask for training have not been answered yet.
    remarks : Remarks
        Warnings about records.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self.round = 0
        self.waiting: Counter[Place] = Counter()
        self._settings = settings
        self._run = secrets.token_bytes(RUN_BYTES)
        self._fleets: dict[str, FleetMemory] = defaultdict(
            lambda: FleetMemory(most=MOST_FORMS)
        )
        self._targets: dict[tuple[str, bytes], _Target] = defaultdict(_Target)
        self.remarks = Remarks(settings.quota)

    def begin(self, trained: Iterable[Collection[Place]]) -> list[bool]:
        """Begin an exchange; return for which messages memories can be used.

        They can if their nodes have replied to every earlier message with these
        records, in this exchange, too. Otherwise the server does not know what a node's
        memory will hold.

        Parameters
        ----------
        trained : Iterable[Collection[Place]]
            The places of each message that asks for training.
        """
        remembering = []
        for places in trained:
            remembering.append(not any(self.waiting[place] for place in places))
            self.waiting.update(places)
        self.round += bool(remembering)
        return remembering

    def answered(self, places: Iterable[Place]) -> None:
        """Note that a message was answered, or that its reply will not be taken."""
        self.waiting.subtract(places)

    def follow(
        self,
        trains: bool,
        common: Container[str],
        key: str,
        form: Form,
        record: ArrayRecord,
    ) -> Following | None:
        """Return the way to a reference that a record travels as; None if it does not.

        The reference moves once for each new record. If the record stays the same, it
        moves once for each round of training. A record that differs between devices has
        no reference, unless the reference was last moved to this very record.

        Parameters
        ----------
        trains : bool
            Whether the message asks for training.
        common : Container[str]
            Keys of the records that are the same for all devices.
        key : str
            Key of the record.
        form : Form
            Its form.
        record : ArrayRecord
            The record.
        """
        if not self._settings.follows:
            return None
        vector = vector_of(form, record)
        layout, fleet = form.layout, self._fleets[key]
        place = (layout.fingerprint.hex(),)
        target = self._targets[key, layout.fingerprint]
        checksum, turn = zlib.crc32(vector.data), fleet.turn(place)
        if key not in common and target.checksum != checksum:
            return None
        trained_before = trains and target.trained not in (0, self.round)
        if not turn or target.checksum != checksum or trained_before:
            turn += 1
            target.checksum, target.trained = checksum, 0
        if trains:
            target.trained = self.round
        grid = self._settings.grid

        def compress(first: bool) -> Compress:
            if first:
                return partial(whole_payload, layout, grid)
            return partial(payload_towards, vector, layout, self._settings)

        stream = fleet.moved(place, layout, turn, vector, compress, grid)
        fleet.keep(place, stream, turn)
        return Following(stream, stream.reference, form, record)

    def reminders(
        self, node: int, followed: Mapping[str, Following], asked: Mapping[str, Any]
    ) -> dict[str, Reminder]:
        """Return what a message says about a device's memory, by key of its records.

        Parameters
        ----------
        node : int
            Id of the device.
        followed : Mapping[str, Following]
            The records that travel as the way to a reference.
        asked : Mapping[str, Any]
            The records of which an update is expected.
        """
        keys = set(followed)
        if self._settings.remembers_uploads:
            keys |= set(asked)
        return {
            key: Reminder(
                round=self.round,
                taken=self._fleets[key].receipts.last.get(str(node)),
                fading=self._settings.fading,
                run=self._run,
            )
            for key in sorted(keys)
        }

    def held(self, node: int, key: str) -> bytes | None:
        """Return the version of the reference that a device holds; None if unknown."""
        return self._fleets[key].held.get(str(node))

    def heard(self, reply: Message, followed: Mapping[str, Following]) -> None:
        """Note what a reply says about its device's references.

        Raises
        ------
        OtherReferenceError
            If the device could not use its message, or holds other values.
        """
        problem = None
        name = str(reply.metadata.src_node_id)
        for key, following in followed.items():
            try:
                self._fleets[key].heard(name, reply, following.reference, key)
            except ValueError as error:
                problem = error
        if problem is not None:
            raise problem

    def collect(self, node: int, key: str, round: int, payload: bytes) -> None:
        """Note the payload of a reply that the strategy may take.

        Only if devices remember what they have not sent: they need to know what was
        taken.
        """
        if not self._settings.remembers_uploads:
            return
        self._fleets[key].collect(str(node), round, payload)

    def confirm(self) -> None:
        """Note that the strategy has taken the replies that were collected."""
        for fleet in self._fleets.values():
            fleet.stepped()
        self.remarks.after_round(self.round)

    def drop(self) -> None:
        """Forget replies that were collected and not taken."""
        for fleet in self._fleets.values():
            fleet.open_round()


def common_records(contents: Iterable[RecordDict], whole_round: bool) -> set[str]:
    """Return the keys of the ArrayRecords that are the same in all contents.

    Parameters
    ----------
    contents : Iterable[RecordDict]
        The contents of messages, one for each device.
    whole_round : bool
        Whether these are all messages of a round. If not, a record must be in two of
        them: a strategy that sends message by message may have made it for one device.
    """
    counts: dict[str, int] = defaultdict(int)
    first: dict[str, ArrayRecord] = {}
    unequal = set()
    for content in contents:
        for key, record in records_of(content, ArrayRecord).items():
            counts[key] += 1
            if not equal_arrays(first.setdefault(key, record), record):
                unequal.add(key)
    least = 1 if whole_round else 2
    return {key for key, n in counts.items() if n >= least} - unequal
