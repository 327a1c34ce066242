"""How payloads and settings travel inside Flower messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from numpy.typing import NDArray

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.methods.role_densities import NONE, RoleDensities
from flasc_flwr.core.methods.trainable import ALL, Trainable
from flasc_flwr.core.printable import printable
from flasc_flwr.core.segments import Segment
from flasc_flwr.flower.compat import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flasc_flwr.flower.npy import read, written
from flasc_flwr.flower.read_instructions import REPLIES, SPARSE, read_instructions

STYPE = "flasc.payload"
"""Serialization type of an Array that holds a payload. Flower cannot read it as
numbers, so no aggregation mistakes it for a dense array."""

PAYLOAD = "payload"
"""Name of the one Array in an ArrayRecord that carries a payload."""

CONTROL = "flasc"
"""Key of the ConfigRecord with instructions for :func:`flasc_flwr.flasc_mod`."""

INTRODUCE = "introduce"
"""Entry of the CONTROL record that asks a node for its name and budget.

It travels in a ``train`` message: Flower runs mods only around functions that the app
has registered, and every ClientApp that takes part has a train function."""

MERGED = "merged"
"""Key of the ArrayRecord with what is merged into the backbone."""

BASES = "bases"
"""Key of the ArrayRecord with measured bases of cores, in the first message to a device
after they were measured."""

MEASURE = "measure-bases"
"""Entry of the record of settings in a message that asks for the client's own bases, in
place of training: arrays of the names and shapes that it receives."""

PART = "part/"
"""Prefix of the entries of the CONTROL record in a reply that list, by ArrayRecord,
which of the arrays received in a payload the reply's payload has; for records that have
other arrays than those received."""

UNCHANGED = "plain"
"""Entry of the CONTROL record in a reply: keys of the ArrayRecords that the mod sent
as they are, because their arrays are not the ones received."""

SAME = "same"
"""Entry of the CONTROL record in a reply: keys of the ArrayRecords that came back as
they were received, and are left out."""

_RAISED = "Exception ClientAppException occurred. Message: "
"""How Flower begins the reason of an app that raised."""

_CLASS, _BETWEEN = "<class '", "'>:<'"
"""What Flower writes before and after the kind of an exception."""

_NOT_SAID = ("", "ValueError", "ClientAppException")
"""Kinds of exceptions that say nothing beside their text."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What the server asks of a client.

    Attributes
    ----------
    density : float, optional
        Largest fraction of the update to send, in (0, 1]; None: send no arrays.
    upload_bytes : int
        Most bytes of the payload; 0 is no limit.
    value_format : str
        Value format of the payload.
    trainable : Trainable
        What the client may change of what it received.
    init_seed : int, optional
        Seed of the initial values that the download is added to.
    clip_norm : float, optional
        L2 norm to scale the update down to before its largest entries are selected.
    on_support : bool
        Send the update on the download's support (all of it at `density` 1) without
        positions: clients with the same download send the same entries.
    roles : RoleDensities
        Densities of roles, which replace `density` for their entries.
    segment : Segment, optional
        The part of the update to send of; None: all. `density` is a fraction of it.
    sparse : Mapping[str, tuple[int, ...]]
        Only in messages of :class:`~flasc_flwr.SparseTransport`: for each ArrayRecord
        the indices of the arrays inside the payload. The others travel whole.
    replies : Mapping[str, str]
        Likewise, what the user says that replies hold, where it is said.
    quota : str
        Likewise, where entries of an update compete: within each tensor, or over all.
    prescribed : frozenset[str]
        Keys of the densities that the device has set itself and that the method
        exceeds: ``dense`` sends everything.
    """

    density: float | None = None
    upload_bytes: int = 0
    value_format: str = "float32"
    trainable: Trainable = ALL
    init_seed: int | None = None
    clip_norm: float | None = None
    on_support: bool = False
    roles: RoleDensities = NONE
    segment: Segment | None = None
    sparse: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prescribed: frozenset[str] = frozenset()
    replies: Mapping[str, str] = field(default_factory=dict)
    quota: str = "none"

    def to_record(self) -> ConfigRecord:
        """Return the ConfigRecord that carries them, without defaults."""
        record = ConfigRecord()
        if self.density is not None:
            record["upload-density"] = self.density
            record["value-format"] = self.value_format
            if self.upload_bytes:
                record["upload-bytes"] = self.upload_bytes
        if not self.trainable.everything:
            record["trains"] = sorted(role.value for role in self.trainable.roles)
            record["support-only"] = self.trainable.support_only
        if self.init_seed is not None:
            record["init-seed"] = self.init_seed
        if self.clip_norm is not None:
            record["clip-norm"] = self.clip_norm
        if self.on_support:
            record["on-support"] = True
        if self.density is not None and self.roles:
            record["role-densities"] = self.roles.to_list()
        if self.segment is not None:
            record["upload-segment"] = [self.segment.index, self.segment.count]
        if self.prescribed:
            record["prescribed"] = sorted(self.prescribed)
        self._add_transport_to(record)
        return record

    def _add_transport_to(self, record: ConfigRecord) -> None:
        """Add what only messages of SparseTransport have."""
        for key, indices in self.sparse.items():
            record[SPARSE + key] = list(indices)
        for key, word in self.replies.items():
            record[REPLIES + key] = word
        if self.quota != "none":
            record["quota"] = self.quota

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Instructions:
        """Read the instructions from their ConfigRecord, which may hold anything.

        Raises
        ------
        ValueError
            If an entry is missing, unknown, of another type or out of range.
        """
        try:
            return cls(**read_instructions(dict(record)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"the message's 'flasc' record cannot be read ({printable(error)}): "
                "server and client must run the same version of flasc-flwr"
            ) from None


def payload_record(payload: bytes) -> ArrayRecord:
    """Wrap a payload into the ArrayRecord that carries it."""
    array = Array(dtype="uint8", shape=(len(payload),), stype=STYPE, data=payload)
    return ArrayRecord({PAYLOAD: array})


def payload_of(record: ArrayRecord) -> bytes:
    """Return the payload that an ArrayRecord carries.

    Raises
    ------
    PayloadError
        If it carries something else.
    """
    if not holds_payload(record):
        kinds = sorted({array.stype for array in record.values()}) or ["nothing"]
        got = printable(", ".join(kinds[:10]), 100)
        raise PayloadError(
            f"expected one payload, got {got}: the ClientApp needs flasc_mod, "
            "ClientApp(mods=[flasc_mod])"
        )
    return record[PAYLOAD].data


def holds_payload(record: ArrayRecord) -> bool:
    """Return whether an ArrayRecord carries a payload."""
    return list(record) == [PAYLOAD] and record[PAYLOAD].stype == STYPE


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return copies of plain arrays as an ArrayRecord."""
    return ArrayRecord({name: written(array) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return copies of the plain arrays in an ArrayRecord."""
    return {name: array.numpy() for name, array in record.items()}


def views_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the plain arrays in an ArrayRecord, read-only and without a copy."""
    return {name: read(array) for name, array in record.items()}


def reason_of(message: Message) -> str:
    """Return why a message carries an error, in one printable line.

    Flower's reason is ``<class 'KIND'>:<'TEXT'>``. In simulation the text is a
    traceback; its last line says why.
    """
    kind, text = "", (message.error.reason or "").rstrip()
    if text.startswith(_CLASS) and _BETWEEN in text:
        before, _, inside = text.partition(_BETWEEN)
        kind = before.removeprefix(_CLASS).rpartition(".")[2]
        text = inside.removesuffix("'>").rstrip()
    for line in reversed(text.splitlines()):
        if reason := printable(line.removeprefix(_RAISED)):
            said = reason if kind in _NOT_SAID else f"{kind}: {reason}"
            return printable(said)
    return f"error code {message.error.code}"


def category(message_type: str) -> str:
    """Return what a message asks for, such as ``train``, of ``train.its_function``."""
    return message_type.partition(".")[0]


def message_bytes(messages: Iterable[Message]) -> list[int]:
    """Return the serialized size of each message, in bytes.

    Flower stores and sends the message and every object nested in it. Messages that
    share their content each count in full.
    """
    sizes = []
    sizes_by_content: dict[int, int] = {}
    # Within this context an object is hashed once, however many messages share it.
    with no_object_id_recompute():
        for message in messages:
            own = len(message.deflate())
            if not message.has_content():
                sizes.append(own)
                continue
            content = message.content
            if id(content) not in sizes_by_content:
                nested = get_all_nested_objects(content).values()
                sizes_by_content[id(content)] = sum(len(o.deflate()) for o in nested)
            sizes.append(own + sizes_by_content[id(content)])
    return sizes
