"""A download as a device receives it: checked against its limits, then decoded."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor

from flwr.app import ArrayRecord

from flasc_flwr.core.codec import read_layout
from flasc_flwr.core.methods.budget import DENSITIES
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.device_update import Received, most_bytes
from flasc_flwr.flower.feedback.device_session import DeviceSession
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.wire import BASES, MERGED, holds_payload, payload_of


def receive(
    records: Mapping[str, ArrayRecord],
    instructions: Instructions,
    limits: DeviceLimits,
    session: DeviceSession | None,
) -> dict[str, Received]:
    """Check the sizes of a message's payloads, then decode them.

    Parameters
    ----------
    records : Mapping[str, ArrayRecord]
        The records of the message, by key.
    instructions : Instructions
        What the server asks for.
    limits : DeviceLimits
        What the device accepts.
    session : DeviceSession or None
        The device's memory; None if it has none.

    Raises
    ------
    PayloadError
        If a payload is corrupt.
    RefusedDownloadError
        If one is beyond the device's limits.
    UnknownVersionError
        If one starts from a reference that the device does not hold.
    """
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
    """Check the size of the newest reference, then take it over."""
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
    most_bytes(layout, instructions, limits)  # an error after training is too late
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
