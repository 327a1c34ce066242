"""The client's side of a SparseTransport: plain arrays for the app, parcels for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    Form,
    is_parcel,
    open_download,
    pack_upload,
)
from flasc_flwr.flower.wire import CONTROL, UNCHANGED, Instructions

Kept = TypeVar("Kept")


@dataclass(frozen=True, eq=False)
class _Received:
    """A record as the app sees it, kept from whatever the app does to its own."""

    form: Form
    arrays: ArrayRecord


def answer(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    order: Instructions,
) -> Message:
    """Let the app answer a message of a SparseTransport.

    The reply's arrays are compared with those received under the same key; with the
    only ones, if there is one record each way. Arrays of other names or shapes cannot
    be compared: their record stays as it is, and the reply says so. Records that
    answer none are the app's own, and stay as they are.

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    ValueError
        If the update holds NaN or infinity.
    """
    received = _receive(message, order)
    reply = call_next(message, context)
    if reply.has_error() or order.density is None:
        return reply
    plain = []
    for key, trained in reply.content.array_records.items():
        origin = counterpart(received, key, len(reply.content.array_records))
        if origin is None:
            continue
        if origin.form.fits(trained):
            reply.content[key] = pack_upload(origin.form, trained, origin.arrays, order)
        else:
            plain.append(key)
    if plain:
        reply.content[CONTROL] = ConfigRecord({UNCHANGED: plain})
    return reply


def counterpart(received: Mapping[str, Kept], key: str, replied: int) -> Kept | None:
    """Return what a reply's record answers; None if it answers nothing.

    `received` are the records that were sent, and `replied` is how many came back.
    """
    if key in received or len(received) != 1 or replied != 1:
        return received.get(key)
    (only,) = received.values()
    return only


def _receive(message: Message, order: Instructions) -> dict[str, _Received]:
    """Turn the parcels in a message into plain arrays; return all that count."""
    received = {}
    for key, record in message.content.array_records.items():
        if is_parcel(record, DOWNLOAD):
            form, record = open_download(record)
            message.content[key] = record
        elif key in order.sparse:
            form = Form.of(record, order.sparse[key])
        else:
            continue
        received[key] = _Received(form, ArrayRecord(dict(record)))
    return received
