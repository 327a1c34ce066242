"""One client's reply: which of its ArrayRecords are parcels, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from flasc_flwr.core.printable import why
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.read_instructions import indices_in
from flasc_flwr.flower.transport.advice import ADD_THE_MOD
from flasc_flwr.flower.transport.encoded_content import EncodedContent
from flasc_flwr.flower.transport.parcel import EMPTY, UPLOAD, is_parcel, match_sent
from flasc_flwr.flower.transport.readable import check_readable
from flasc_flwr.flower.transport.sent_record import SentRecord
from flasc_flwr.flower.transport.trip_traffic import data_bytes
from flasc_flwr.flower.transport.upload_parcel import arrays_in, open_upload
from flasc_flwr.flower.wire import (
    CONTROL,
    PART,
    PAYLOAD,
    SAME,
    UNCHANGED,
    message_bytes,
)


@dataclass(frozen=True, eq=False)
class ParcelUpdate:
    """The content of a parcel.

    Attributes
    ----------
    sent : SentRecord
        What it is an update of.
    update : SparseVector
        The update.
    arrays : dict[str, Array]
        The reply's arrays in their order: those that travelled whole, and empty ones in
        place of those in the payload.
    payload : bytes
        The payload.
    """

    sent: SentRecord
    update: SparseVector
    arrays: dict[str, Array]
    payload: bytes

    @property
    def whole(self) -> dict[str, Array]:
        """The arrays that travelled whole."""
        return {n: array for n, array in self.arrays.items() if array is not EMPTY}


@dataclass(frozen=True, eq=False)
class IncomingReply:
    """A reply that has been inspected, and not yet decoded.

    Attributes
    ----------
    message : Message
        The reply as it came.
    parcels, dense : dict[str, SentRecord]
        By key of its records of trained arrays, as parcels or as dense arrays: the
        record that was sent.
    whole : dict[str, ArrayRecord]
        By key of its records in which every array travelled whole: what was sent.
    parts : dict[str, tuple[int, ...]]
        By key of its parcels that do not have exactly the arrays sent: which of the
        tensors sent are in the payload.
    untouched : frozenset[str]
        Keys of the records that came unencoded, as they do not hold trained arrays.
    same : dict[str, SentRecord]
        Records that an evaluation left out, as it returned them unchanged.
    plain_bytes : int
        Bytes of its arrays as Flower's plain arrays.
    error : str, optional
        Why it is rejected.
    """

    message: Message
    parcels: dict[str, SentRecord] = field(default_factory=dict)
    dense: dict[str, SentRecord] = field(default_factory=dict)
    whole: dict[str, ArrayRecord] = field(default_factory=dict)
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    untouched: frozenset[str] = frozenset()
    same: dict[str, SentRecord] = field(default_factory=dict)
    plain_bytes: int = 0
    error: str | None = None

    def arrays(self, key: str) -> Mapping[str, Array]:
        """Return a record's arrays: empty ones in place of those in a payload.

        Raises
        ------
        PayloadError
            If it is a corrupt parcel.
        """
        record = records_of(self.message.content, ArrayRecord)[key]
        if key not in self.parcels:
            return record
        return arrays_in(record, self.parcels[key].form, self.parts.get(key))


def inspect_reply(message: Message, content: EncodedContent) -> IncomingReply:
    """Sort the ArrayRecords of a reply to `content`, without decoding any.

    A record that corresponds to none that was sent is left to the inner strategy.
    """
    control = records_of(message.content, ConfigRecord).get(CONTROL, ConfigRecord())
    listed = control.get(UNCHANGED)
    unchanged = listed if isinstance(listed, list) else []
    records = records_of(message.content, ArrayRecord)
    same = _left_out(message, content)
    parcels, dense, plain_bytes, error = {}, {}, 0, None
    whole, parts, untouched = {}, {}, set()
    for key, record in records.items():
        if key in same:
            plain_bytes += data_bytes(same[key].arrays)
            continue
        sent = match_sent(content.trained, key, len(records))
        plain_bytes += data_bytes(sent.arrays if sent else record)
        if sent is None:
            if (original := match_sent(content.whole, key, len(records))) is not None:
                whole[key] = original
            continue
        if key in unchanged:
            whole[key] = sent.arrays
            untouched.add(key)
        elif not content.expects_parcels:
            dense[key] = sent
        elif is_parcel(record, UPLOAD):
            parcels[key] = sent
            if PART + key in control:
                parts[key] = indices_in(control[PART + key], PART + key)
        else:
            error = f"its arrays did not go through flasc_mod: {ADD_THE_MOD}"
    return IncomingReply(
        message,
        parcels=parcels,
        dense=dense,
        whole=whole,
        parts=parts,
        untouched=frozenset(untouched),
        same=same,
        plain_bytes=plain_bytes,
        error=error,
    )


def _left_out(message: Message, content: EncodedContent) -> dict[str, SentRecord]:
    """Return the records that an evaluation returned unchanged, by key.

    Raises
    ------
    ValueError
        If one is named that was not sent, or is not empty.
    """
    control = records_of(message.content, ConfigRecord).get(CONTROL, ConfigRecord())
    listed = control.get(SAME)
    if content.trains or not isinstance(listed, list):
        return {}
    records, same = records_of(message.content, ArrayRecord), {}
    for name in listed:
        key = str(name)
        sent = match_sent(content.sent, key, len(records))
        if sent is None or key not in records or len(records[key]):
            raise ValueError("a record that was left out must be one that was sent")
        same[key] = sent
    return same


def decode_parcels(reply: IncomingReply) -> tuple[int, dict[str, ParcelUpdate] | str]:
    """Return a reply's size in bytes, and its updates by key or why it is rejected.

    Any exception while a reply is read rejects that reply.
    """
    size = 0
    try:
        (size,) = message_bytes([reply.message])
        if reply.error or reply.message.has_error():
            return size, reply.error or {}
        updates = {}
        records = records_of(reply.message.content, ArrayRecord)
        for key, sent in reply.parcels.items():
            parcel = records[key]
            opened = open_upload(parcel, sent.form, reply.parts.get(key))
            updates[key] = ParcelUpdate(sent, *opened, parcel[PAYLOAD].data)
    except Exception as error:
        return size, why(error)
    return size, updates


def check_arrays(reply: IncomingReply, updates: Mapping[str, ParcelUpdate]) -> None:
    """Check the plain arrays of a reply and of its parcels.

    This must not run in several threads: numpy reads the header of an array with
    :mod:`ast`, which in Python 3.11 sometimes fails if two threads use it at a time.

    Raises
    ------
    ValueError
        If one cannot be read, or should be finite and is not.
    """
    for key, record in records_of(reply.message.content, ArrayRecord).items():
        if key in updates:
            check_readable(updates[key].whole, updates[key].sent.arrays)
        else:
            received = reply.dense.get(key)
            whole = reply.whole.get(key, ArrayRecord())
            sent = received.arrays if received else whole
            check_readable(record, sent)


def put_on_sent(reply: IncomingReply) -> None:
    """Replace the arrays that came dense by those of the strategy plus their change.

    Records that an evaluation left out are put back as it received them.
    """
    content = reply.message.content
    if CONTROL in records_of(content, ConfigRecord):
        del content[CONTROL]
    records = records_of(content, ArrayRecord)
    for key, sent in reply.dense.items():
        content[key] = sent.plus_training(records[key])
    for key, sent in reply.same.items():
        content[key] = ArrayRecord(dict(sent.received))
