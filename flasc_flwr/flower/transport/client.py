"""The client's side of SparseTransport: decode a message, encode its reply."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    is_parcel,
    match_sent,
    open_download,
    pack_upload,
)
from flasc_flwr.flower.wire import CONTROL, UNCHANGED, Instructions


@dataclass(frozen=True, eq=False)
class _ReceivedRecord:
    """A decoded record, in a copy that the app cannot change."""

    form: Form
    arrays: ArrayRecord


def run_client_app(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    instructions: Instructions,
) -> Message:
    """Run a ClientApp on dense arrays, and encode the arrays it returns.

    Each ArrayRecord of the reply is compared with the one received under the same key,
    or with the only one if there is one each way. Records whose arrays have other names
    or shapes cannot be compared: they are sent unchanged, and the reply lists their
    keys. Records that correspond to none received are sent unchanged as well.

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

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    ValueError
        If an update holds NaN or infinity.
    """
    received = _decode_records(message, instructions)
    reply = call_next(message, context)
    if reply.has_error() or instructions.density is None:
        return reply
    unchanged = []
    records = reply.content.array_records
    for key, trained in records.items():
        start = match_sent(received, key, len(records))
        if start is None:
            continue
        if not start.form.fits(trained):
            unchanged.append(key)
            continue
        reply.content[key] = pack_upload(
            start.form,
            trained,
            start.arrays,
            instructions.density,
            instructions.value_format,
        )
    if unchanged:
        reply.content[CONTROL] = ConfigRecord({UNCHANGED: unchanged})
    return reply


def _decode_records(
    message: Message, instructions: Instructions
) -> dict[str, _ReceivedRecord]:
    """Replace the parcels of a message by dense arrays; return what updates start from.

    That is every parcel, and every record whose update is to come as a parcel.
    """
    received = {}
    for key, record in message.content.array_records.items():
        if is_parcel(record, DOWNLOAD):
            form, record = open_download(record)
            message.content[key] = record
        elif key in instructions.sparse:
            form = Form.of(record, instructions.sparse[key])
        else:
            continue
        received[key] = _ReceivedRecord(form, ArrayRecord(dict(record)))
    return received
