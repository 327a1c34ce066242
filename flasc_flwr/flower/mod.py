"""The client mod: decodes what a device receives, and encodes what it sends."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flasc_flwr.core.feedback.catching_up import UnknownVersionError
from flasc_flwr.flower.bases.device_bases import DeviceBases, lacking
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.device_budget import device_keys, introduce
from flasc_flwr.flower.device_download import receive
from flasc_flwr.flower.device_errors import download_errors, upload_errors
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.device_update import Received, encode_update
from flasc_flwr.flower.envelope import is_sealed, opened, sealed
from flasc_flwr.flower.feedback.device_session import DeviceSession, sessions_of
from flasc_flwr.flower.feedback.kept_memory import held_version
from flasc_flwr.flower.feedback.reminder import cannot_use, holding
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.node_config import refuse_near_misses
from flasc_flwr.flower.transport.client import run_client_app
from flasc_flwr.flower.transport.parcel import DOWNLOAD, is_parcel
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, payload_record, views_of


def flasc_mod(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Let an unchanged ClientApp take part with sparse messages.

    The app behind this mod sees plain dense arrays. What it returns is compared
    with what it received, and the largest entries of the difference are sent back:
    ``top_k(trained - received)``. `received` is the masked download: an entry that was
    not downloaded starts from zero (FLASC's code: ``x0 - x``).

    Messages without a payload pass unchanged. What the server sends is checked before
    the app sees it, also against the device's own limits
    (:class:`~flasc_flwr.flower.device_limits.DeviceLimits`).

    Parameters
    ----------
    message : Message
        The incoming message.
    context : Context
        The node's context; its ``node_config`` may set the node's own budget.
    call_next : ClientAppCallable
        The next mod, or the app.

    Returns
    -------
    Message
        The reply.

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    RefusedDownloadError
        If it is beyond the device's own limits.
    NodeConfigError
        If a key of the ``--node-config`` is nearly one that this mod reads.
    ValueError
        If the reply's arrays do not fit those received, or hold NaN or infinity. No
        error holds a value of an array: Flower sends its text to the server.
    """
    refuse_near_misses(context.node_config, device_keys())
    in_envelope = is_sealed(message.content)
    with download_errors():
        content = message.content = opened(message.content)
    control = _taken_out(content)
    if control and INTRODUCE in control:
        return introduce(message, context)
    bases = DeviceBases.of(context, control)
    if not bases.put_into(content):
        return Message(RecordDict({CONTROL: lacking(context)}), reply_to=message)
    records = records_of(content, ArrayRecord)
    session = DeviceSession.of(context, control)
    sessions = sessions_of(context, control, records)
    instructions = Instructions.from_record(control) if control else Instructions()
    limits = DeviceLimits.of(context.node_config)
    limits.let_in_records(records.values())
    if instructions.sparse or any(is_parcel(r, DOWNLOAD) for r in records.values()):
        return run_client_app(
            message, context, call_next, instructions, limits, sessions
        )
    with download_errors():
        try:
            received = receive(records, instructions, limits, session)
        except UnknownVersionError:
            answer = cannot_use(held_version(context))
            return Message(RecordDict({CONTROL: answer}), reply_to=message)
        arrays = _hand_over(received)
    bases.keep()
    # An evaluation trains nothing.
    trained = received if instructions.density is not None else None
    reply = _asked(message, context, call_next, arrays, trained)
    if reply.has_error():
        return reply
    if instructions.density is not None:
        _encode_reply(reply, received, instructions, limits, session)
    if session:
        session.keep()
        if reference := session.held():
            reply.content[CONTROL] = holding(reference)
    if in_envelope:
        reply.content = sealed(reply.content)
    return reply


def trainable_entries(key: str = "arrays") -> dict[str, NDArray[np.bool_]] | None:
    """Return which entries the running train function may change.

    Methods that freeze a part of the adapter need the ClientApp's help: it must not
    change frozen entries while it trains. Changes to them are not sent.

    Parameters
    ----------
    key : str
        Key of the ArrayRecord in the message.

    Returns
    -------
    dict[str, NDArray[np.bool_]] or None
        The mask of each array; None if all entries may change.
    """
    received = _TRAINABLE.get()
    return received[key].trainable() if received else None


def _asked(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    arrays: dict[str, ArrayRecord],
    trained: dict[str, Received] | None,
) -> Message:
    """Return the app's reply to a message with dense arrays instead of payloads.

    Afterwards the message has its payloads again, unless the reply has the same
    content: dense arrays take memory, and mods around this one have not seen them.
    `arrays` is emptied, so that the app can free them.
    """
    payloads = {key: message.content[key] for key in arrays}
    message.content.update(arrays)
    arrays.clear()
    token = _TRAINABLE.set(trained)
    try:
        reply = call_next(message, context)
    finally:
        _TRAINABLE.reset(token)
    if reply.has_error() or reply.content is not message.content:
        message.content.update(payloads)
    return reply


def _hand_over(received: dict[str, Received]) -> dict[str, ArrayRecord]:
    """Return the arrays for the app; `received` then refers to these, too."""
    arrays = {}
    for key, download in received.items():
        received[key], arrays[key] = download.handed_over()
    return arrays


def _taken_out(content: RecordDict) -> ConfigRecord | None:
    """Take the control record out of a content; None if it has none."""
    control = records_of(content, ConfigRecord).get(CONTROL)
    if control is not None:
        del content[CONTROL]
    return control


def _encode_reply(
    reply: Message,
    received: dict[str, Received],
    instructions: Instructions,
    limits: DeviceLimits,
    session: DeviceSession | None,
) -> None:
    """Replace the arrays of an app's reply by payloads, and empty `received`."""
    with upload_errors():
        records, known = records_of(reply.content, ArrayRecord), list(received)
        for key in list(records):
            if key not in known:
                raise ValueError(
                    f"the reply's arrays {key!r} were not in the message, which has "
                    f"{', '.join(known) or 'none'}"
                )
            origin = received.pop(key)
            update = origin.update(views_of(records.pop(key)))
            # Arrays are dropped as soon as possible: encoding takes memory, too.
            reply.content[key], origin = ArrayRecord(), replace(origin, start={})
            payload = encode_update(origin, update, instructions, limits, session)
            reply.content[key] = payload_record(payload)


_TRAINABLE: ContextVar[dict[str, Received] | None] = ContextVar(
    "trainable", default=None
)
