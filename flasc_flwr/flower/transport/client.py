"""The client's side of SparseTransport: decode a message, encode its reply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.core.layout import Layout
from flasc_flwr.flower.device_errors import download_errors, upload_errors
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    is_parcel,
    layout_of,
    match_sent,
    open_download,
    pack_upload,
)
from flasc_flwr.flower.wire import CONTROL, UNCHANGED, Instructions


@dataclass(frozen=True, eq=False)
class _ReceivedRecord:
    """A decoded record, in a copy that the app cannot change.

    `most_bytes` is the most that the payload of its update may have; 0 is no limit.
    """

    form: Form
    arrays: ArrayRecord
    most_bytes: int


def run_client_app(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    instructions: Instructions,
    limits: DeviceLimits,
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
    limits : DeviceLimits
        What the device accepts.

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    RefusedDownloadError
        If it is beyond the device's limits.
    ValueError
        If an update holds NaN or infinity.
    """
    with download_errors():
        limits.let_in_layouts(_layouts(message, instructions))
        received = _decode_records(message, instructions, limits)
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
        with upload_errors():
            reply.content[key] = pack_upload(
                start.form,
                trained,
                start.arrays,
                instructions.density,
                instructions.value_format,
                most_bytes=start.most_bytes,
            )
    if unchanged:
        reply.content[CONTROL] = ConfigRecord({UNCHANGED: unchanged})
    return reply


def _layouts(message: Message, instructions: Instructions) -> Iterator[Layout]:
    """Yield the layouts of the arrays that this side will hold as one vector each."""
    for key, record in message.content.array_records.items():
        if is_parcel(record, DOWNLOAD):
            yield layout_of(record)
        elif key in instructions.sparse:
            yield Form.of(record, instructions.sparse[key]).layout


def _decode_records(
    message: Message, instructions: Instructions, limits: DeviceLimits
) -> dict[str, _ReceivedRecord]:
    """Replace the parcels of a message by dense arrays; return what updates start from.

    That is every parcel, and every record whose update is to come as a parcel.
    """
    received = {}
    for key, record in message.content.array_records.items():
        if is_parcel(record, DOWNLOAD):
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
        received[key] = _ReceivedRecord(form, ArrayRecord(dict(record)), most_bytes)
    return received
