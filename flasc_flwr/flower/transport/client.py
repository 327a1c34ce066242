"""The client's side of SparseTransport: decode a message, encode its reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import floor
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.core.feedback.catching_up import UnknownVersionError
from flasc_flwr.core.layout import Layout
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.device_errors import download_errors, upload_errors
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.feedback.device_session import DeviceSession
from flasc_flwr.flower.feedback.kept_memory import held_version
from flasc_flwr.flower.feedback.reminder import cannot_use, holding
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.transport.download_parcel import (
    layout_of,
    open_download,
    with_payload,
)
from flasc_flwr.flower.transport.form import Form, equal_arrays
from flasc_flwr.flower.transport.parcel import DOWNLOAD, is_parcel, match_sent
from flasc_flwr.flower.transport.private_mods import clips, is_private
from flasc_flwr.flower.transport.replied import Origin, encoded_reply
from flasc_flwr.flower.wire import CONTROL, PART, PAYLOAD, SAME, UNCHANGED, category


def run_client_app(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    instructions: Instructions,
    limits: DeviceLimits,
    sessions: Mapping[str, DeviceSession],
) -> Message:
    """Run a ClientApp on dense arrays, and encode the arrays it returns.

    Each ArrayRecord of the reply is compared with the one received under the same key,
    or with the only one if there is one each way. A record that corresponds to none is
    sent unchanged. So is a record that does not hold the received arrays after
    training: the reply lists its key.

    Parameters
    ----------
    message : Message
        The incoming message; its parcels are replaced by dense arrays.
    context : Context
        The node's context.
    call_next : ClientAppCallable
        The next mod, or the app.
    instructions : Instructions
        What the server asks for.
    limits : DeviceLimits
        What the device accepts.
    sessions : Mapping[str, DeviceSession]
        What the device remembers, by key of its ArrayRecords.

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    RefusedDownloadError
        If it is beyond the device's limits.
    ValueError
        If an update holds NaN or infinity, or a record of the reply has the key of
        the instructions.
    """
    with download_errors():
        limits.let_in_layouts(_layouts(message, instructions, sessions))
        try:
            received = _decode_records(message, instructions, limits, sessions)
        except UnknownVersionError:
            held: dict[str, Any] = {}
            for key in sessions:
                held.update(cannot_use(held_version(context, key), key))
            answer = ConfigRecord(held)
            return Message(RecordDict({CONTROL: answer}), reply_to=message)
    if instructions.density is not None and is_private(message, call_next):
        bounded = clips(message, call_next)
        received = {
            key: replace(origin, session=None, bounded=bounded)
            for key, origin in received.items()
        }
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    control: dict[str, Any] = {}
    if instructions.density is not None:
        control = _encode_records(reply, received, instructions)
    elif category(message.metadata.message_type) == MessageType.EVALUATE:
        control = _leave_out(reply, received)
    for key, session in sessions.items():
        session.keep()
        if reference := session.held():
            control.update(holding(reference, key))
    _require_other_keys(reply)
    if control:
        reply.content[CONTROL] = ConfigRecord(control)
    return reply


def _require_other_keys(reply: Message) -> None:
    """Check that a reply has no record that the mod's own would replace."""
    if CONTROL in reply.content:
        raise ValueError(
            f"the key of a record in the reply must not be {CONTROL!r}, the key of "
            "flasc_mod's own"
        )


def _encode_records(
    reply: Message, received: Mapping[str, Origin], instructions: Instructions
) -> dict[str, Any]:
    """Replace the records of a reply by parcels; return entries about them."""
    control: dict[str, Any] = {}
    unchanged = []
    records = records_of(reply.content, ArrayRecord)
    for key, record in records.items():
        origin = match_sent(received, key, len(records))
        if origin is None:
            continue
        with upload_errors():
            encoded = encoded_reply(origin, record, instructions)
        if encoded is None:
            unchanged.append(key)
            continue
        reply.content[key], part = encoded
        if part is not None:
            control[PART + key] = list(part)
    if unchanged:
        control[UNCHANGED] = unchanged
    return control


def _leave_out(reply: Message, received: Mapping[str, Origin]) -> dict[str, Any]:
    """Empty the records that an evaluation returns unchanged; return their keys."""
    same = []
    records = records_of(reply.content, ArrayRecord)
    for key, record in records.items():
        origin = match_sent(received, key, len(records))
        if origin is not None and equal_arrays(origin.arrays, record):
            reply.content[key] = ArrayRecord()
            same.append(key)
    return {SAME: same} if same else {}


def _layouts(
    message: Message, instructions: Instructions, sessions: Mapping[str, DeviceSession]
) -> Iterator[Layout]:
    """Yield the layout of each record that this device will hold as one vector."""
    for key, record in records_of(message.content, ArrayRecord).items():
        if is_parcel(record, DOWNLOAD):
            session = sessions.get(key)
            if session is None or not session.follows:
                yield layout_of(record)
            elif known := session.layout(record[PAYLOAD].data):
                yield known
        elif key in instructions.sparse:
            yield Form.of(record, instructions.sparse[key]).layout


def _decode_records(
    message: Message,
    instructions: Instructions,
    limits: DeviceLimits,
    sessions: Mapping[str, DeviceSession],
) -> dict[str, Origin]:
    """Replace the parcels of a message by dense arrays; return what updates start from.

    Updates start from every parcel, and from every record whose update is to be one.
    """
    received = {}
    for key, record in records_of(message.content, ArrayRecord).items():
        session = sessions.get(key)
        if is_parcel(record, DOWNLOAD):
            if session is not None and session.follows:
                form, record = _follow(record, session, limits)
            else:
                form, record = open_download(record, limits)
            message.content[key] = record
        elif key in instructions.sparse:
            form = Form.of(record, instructions.sparse[key])
            limits.let_in_adapter(form.layout, form.layout.size)
        else:
            continue
        most_bytes = 0
        if instructions.density is not None:
            most_bytes = limits.most_upload_bytes(
                instructions.upload_bytes, form.layout, instructions.value_format
            )
            asked = max(1, floor(form.layout.size * instructions.density))
            limits.let_in_upload(form.layout, asked)
        # A copy, which the app cannot change.
        arrays = ArrayRecord(dict(record))
        received[key] = Origin(
            form, arrays, most_bytes, instructions.replies.get(key, "auto"), session
        )
    return received


def _follow(
    parcel: ArrayRecord, session: DeviceSession, limits: DeviceLimits
) -> tuple[Form, ArrayRecord]:
    """Take over the newest reference; return its form, and the arrays of the record."""
    data = parcel[PAYLOAD].data
    if known := session.layout(data):
        session.let_in(data, known, limits)
    layout, start = session.follow(data, None)
    limits.let_in_adapter(layout, 0)
    return with_payload(parcel, layout, start)
