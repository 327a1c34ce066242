"""The client mod: decodes what comes in, encodes what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from math import floor

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flasc_flwr.core.codec import read_layout
from flasc_flwr.core.feedback.catching_up import UnknownVersionError
from flasc_flwr.core.methods.budget import DENSITIES
from flasc_flwr.core.settings import settings_of
from flasc_flwr.flower.bases.device_bases import HELD as BASES_HELD
from flasc_flwr.flower.bases.device_bases import DeviceBases, held_bases, lacking
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.device_errors import download_errors, upload_errors
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.device_update import Received, encode_update, most_bytes
from flasc_flwr.flower.envelope import is_sealed, opened, sealed
from flasc_flwr.flower.feedback.device_session import (
    RESIDUAL_VALUES,
    DeviceSession,
    sessions_of,
)
from flasc_flwr.flower.feedback.kept_memory import MEMORY_FOLDER, held_version
from flasc_flwr.flower.feedback.reminder import HELD, cannot_use, holding
from flasc_flwr.flower.node_config import refuse_near_misses
from flasc_flwr.flower.transport.client import run_client_app
from flasc_flwr.flower.transport.parcel import DOWNLOAD, is_parcel
from flasc_flwr.flower.wire import (
    BASES,
    CONTROL,
    INTRODUCE,
    MERGED,
    Instructions,
    holds_payload,
    payload_of,
    payload_record,
    views_of,
)

OWN_SETTINGS = (
    "download-density",
    "upload-density",
    "download-bytes",
    "upload-bytes",
    "upload-seconds",
    "upload-mbits",
    "lora-rank",
    "tier",
)
"""What a device may set of its budget in its ``--node-config``."""


def flasc_mod(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Let a ClientApp take part with sparse messages, untouched.

    The app behind this mod sees plain dense arrays. What it returns is compared
    with what it received, and the largest entries of the difference are sent back:
    ``top_k(trained - received)``. `received` is the masked download: an entry that was
    not downloaded counts from zero (FLASC's code: ``x0 - x``).

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
        return _introduce(message, context)
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
            received = _receive_all(records, instructions, limits, session)
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


def device_keys() -> frozenset[str]:
    """Return the keys of a ``--node-config`` that `flasc_mod` reads."""
    limits = (declared.key for declared in settings_of(DeviceLimits).values())
    return frozenset([*OWN_SETTINGS, RESIDUAL_VALUES, MEMORY_FOLDER, *limits])


def trainable_entries(key: str = "arrays") -> dict[str, NDArray[np.bool_]] | None:
    """Return which entries the running train function may change.

    Methods that freeze a part of the adapter need the ClientApp's help: it must not
    change the other entries while it trains. Changes to them are not sent.

    Parameters
    ----------
    key : str
        Key of the ArrayRecord in the message.

    Returns
    -------
    dict[str, NDArray[np.bool_]] or None
        For each array its mask, or None where all entries may change.
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
    """Return the app's reply to dense arrays in place of the payloads of a message.

    Afterwards the message has its payloads again, unless it is the reply: dense arrays
    take memory, and mods around this one have not seen them. `arrays` is empty then.
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
    """Return the arrays that the app sees; `received` is compared with them then."""
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
    """Replace the arrays of an app's reply by payloads; empties `received`."""
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
            # What is not needed any more takes memory while the update is encoded.
            reply.content[key], origin = ArrayRecord(), replace(origin, start={})
            payload = encode_update(origin, update, instructions, limits, session)
            reply.content[key] = payload_record(payload)


def _receive_all(
    records: Mapping[str, ArrayRecord],
    instructions: Instructions,
    limits: DeviceLimits,
    session: DeviceSession | None,
) -> dict[str, Received]:
    """Decode the payloads of a message, once their sizes are known and allowed."""
    payloads = {k: payload_of(r) for k, r in records.items() if holds_payload(r)}
    if session and session.follows:
        ((key, data),) = payloads.items()
        return {key: _follow(data, instructions, limits, session)}
    for payload in payloads.values():
        limits.let_in_payload(payload)
    limits.let_in_layouts(map(read_layout, payloads.values()))
    received = {k: Received.of(p, instructions) for k, p in payloads.items()}
    for key, download in received.items():
        # What is merged into the backbone has no rank. It and bases travel dense.
        if key == BASES:
            limits.let_in_adapter(download.layout, download.kept, DENSITIES)
        elif key != MERGED:
            _let_in(download, instructions, limits)
    return received


def _follow(
    data: bytes,
    instructions: Instructions,
    limits: DeviceLimits,
    session: DeviceSession,
) -> Received:
    """Take over the newest reference, once its size is known and allowed."""
    known = session.layout(data)
    if known:
        limits.let_in_layouts([known])
        session.let_in(data, known, limits, instructions.prescribed)
    layout, start = session.follow(data, instructions.init_seed)
    entries = None
    if not instructions.trainable.everything:
        entries = instructions.trainable.entries(layout)
    received = Received(layout, start, entries=entries)
    _let_in(received, instructions, limits)
    return received


def _let_in(
    received: Received, instructions: Instructions, limits: DeviceLimits
) -> None:
    """Check what a download is, and what it asks for, against the device's limits."""
    layout, kept = received.layout, received.kept
    limits.let_in_adapter(layout, kept, instructions.prescribed)
    if instructions.density is None:
        return
    most_bytes(layout, instructions, limits)  # before the app has trained in vain
    size = layout.size
    if instructions.segment is not None:
        place = instructions.segment.place(size)
        size = place.stop - place.start
    asked = max(1, floor(size * instructions.density))
    if instructions.roles:
        asked = instructions.roles.most(layout, instructions.density)
    if instructions.on_support and instructions.density < 1:
        asked = kept
    limits.let_in_upload(layout, asked, instructions.prescribed)


_TRAINABLE: ContextVar[dict[str, Received] | None] = ContextVar(
    "trainable", default=None
)


def _introduce(message: Message, context: Context) -> Message:
    """Reply with this node's name and budget."""
    settings = context.node_config
    answer = ConfigRecord({k: settings[k] for k in OWN_SETTINGS if k in settings})
    # Node ids are random in every simulation; the partition makes a simulated client
    # the same client in the next run.
    if "partition-id" in settings:
        answer["name"] = str(settings["partition-id"])
    if version := held_version(context):
        answer[HELD] = version
    if version := held_bases(context):
        answer[BASES_HELD] = version
    return Message(RecordDict({CONTROL: answer}), reply_to=message)
