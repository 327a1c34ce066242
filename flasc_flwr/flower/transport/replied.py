"""What a device sends of the arrays that its app returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.clipping import l2_norm
from flasc_flwr.core.codec import decode
from flasc_flwr.core.finite import FINITE, require_finite_tensors
from flasc_flwr.core.layout import Vector
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.feedback.device_session import DeviceSession
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.npy import read
from flasc_flwr.flower.transport.evidence import AUTO, UPDATES, are_trained
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.selection import encode_largest
from flasc_flwr.flower.transport.upload_parcel import pack_upload

_LESS = 0.999
"""Scaled down a little more than is needed, an update is within its norm sooner."""


@dataclass(frozen=True, eq=False)
class Origin:
    """A received record, with which a record of the reply is compared.

    Attributes
    ----------
    form : Form
        Its form.
    arrays : ArrayRecord
        The arrays that the app received.
    most_bytes : int
        Most bytes of the payload of its update; 0 is no limit.
    word : str
        What replies hold: one of :data:`~.evidence.WORDS`.
    session : DeviceSession or None
        Where the device keeps what its replies leave out; None if it does not.
    bounded : bool
        Whether the norm of what is sent must not exceed that of the update: it was
        clipped.
    """

    form: Form
    arrays: ArrayRecord
    most_bytes: int
    word: str
    session: DeviceSession | None
    bounded: bool = False


def encoded_reply(
    origin: Origin, reply: ArrayRecord, instructions: Instructions
) -> tuple[ArrayRecord, tuple[int, ...] | None] | None:
    """Return the parcel of an app's record; None if it is to travel as it is.

    Arrays with the name and shape of one received in the payload go into the payload.
    The reply's other arrays travel whole.

    Parameters
    ----------
    origin : Origin
        What the record is compared with.
    reply : ArrayRecord
        The record.
    instructions : Instructions
        What the server asks for.

    Returns
    -------
    (ArrayRecord, tuple[int, ...] or None) or None
        The parcel. If the reply does not have exactly the arrays received, also which
        tensors are in its payload.

    Raises
    ------
    ValueError
        If an update holds NaN or infinity (the message names the array), or the bytes
        are too few for it.
    """
    form = origin.form
    part = form.part_in(reply)
    names = [form.layout.tensors[index].name for index in part]
    for name in names:
        if not np.isfinite(read(reply[name])).all():
            raise ValueError(f"array {printable(name, 100)!r} {FINITE}")
    if not names or (
        origin.word == AUTO and not are_trained(origin.arrays, reply, names)
    ):
        return None
    update = _update(origin, reply, names)
    session, density = origin.session, instructions.density
    assert density is not None
    if session:
        entries = None
        if len(part) < len(form.layout.tensors):
            entries = np.zeros(form.layout.size, bool)
            for tensor, place in form.layout.slices():
                entries[place] = tensor.name in names
        update = session.owed(form.layout, update, entries)
    encode = partial(
        encode_largest,
        layout=form.layout,
        density=density,
        values=instructions.value_format,
        most=origin.most_bytes,
        key="upload-bytes",
        quota=instructions.quota,
    )
    payload = encode(update)
    if origin.bounded:
        payload = _within_norm(payload, update, encode)
    if session:
        session.sent(payload)
    parcel = pack_upload(form, payload, part, reply)
    return parcel, None if form.fits(reply) else part


def _within_norm(
    payload: bytes, update: Vector, encode: Callable[[Vector], bytes]
) -> bytes:
    """Return a payload whose values, as they are decoded, have no larger norm.

    Rounding to few bits raises some values: by up to half of the norm with `int4`.
    """
    bound, scaled = l2_norm(update), update
    while (norm := l2_norm(decode(payload, size=len(update)).values)) > bound:
        scaled = scaled * np.float32(_LESS * bound / norm)
        payload = encode(scaled)
    return payload


def _update(origin: Origin, reply: ArrayRecord, names: list[str]) -> Vector:
    """Return what the server is to add, shape (N,); 0 for arrays that are not named."""
    layout = origin.form.layout
    update = np.zeros(layout.size, np.float32)
    for tensor, place in layout.slices():
        if tensor.name not in names:
            continue
        new = read(reply[tensor.name])
        if origin.word == UPDATES:
            update[place] = new.ravel()
            continue
        old = read(origin.arrays[tensor.name])
        # Subtracted before rounding, which would lose a small step of a float64.
        wide = np.result_type(np.float32, new, old)
        update[place] = np.subtract(new, old, dtype=wide).ravel()
    require_finite_tensors(layout, update)
    return update
