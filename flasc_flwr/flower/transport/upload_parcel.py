"""Parcels on the way to the server: packed on a device, opened at the server."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, decode
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import (
    EMPTY,
    UPLOAD,
    beside_payload,
    names_in_order,
    packed,
)
from flasc_flwr.flower.wire import PAYLOAD


def pack_upload(
    form: Form, payload: bytes, part: Sequence[int], reply: ArrayRecord
) -> ArrayRecord:
    """Return the parcel of a reply.

    Parameters
    ----------
    form : Form
        Form of what was received.
    payload : bytes
        The payload.
    part : Sequence[int]
        Which tensors of the form's layout the payload is of. The reply's other arrays
        travel whole.
    reply : ArrayRecord
        The reply.
    """
    if form.fits(reply):
        return packed(payload, UPLOAD, reply, form.whole)
    inside = {form.layout.tensors[index].name for index in part}
    whole = {i: name for i, name in enumerate(reply) if name not in inside}
    return packed(payload, UPLOAD, reply, whole)


def open_upload(
    parcel: ArrayRecord, form: Form, part: Sequence[int] | None = None
) -> tuple[SparseVector, dict[str, Array]]:
    """Return the update in a parcel, and the reply's arrays by name.

    Parameters
    ----------
    parcel : ArrayRecord
        The parcel.
    form : Form
        Form of what was sent.
    part : Sequence[int], optional
        Which tensors of the form's layout the reply has in the payload; None if it has
        exactly the arrays that were sent.

    Returns
    -------
    SparseVector and dict[str, Array]
        The update; and the reply's arrays in their order: those that travelled whole,
        and empty ones in place of those in the payload.

    Raises
    ------
    PayloadError
        If the parcel is corrupt, or has another form.
    """
    arrays = arrays_in(parcel, form, part)
    layout = form.layout
    payload = parcel[PAYLOAD].data
    update = decode(payload, size=layout.size, fingerprint=layout.fingerprint)
    return update, arrays


def arrays_in(
    parcel: ArrayRecord, form: Form, part: Sequence[int] | None
) -> dict[str, Array]:
    """Return the arrays that :func:`open_upload` returns, without decoding.

    Raises
    ------
    PayloadError
        If the parcel has another form.
    """
    whole = beside_payload(parcel)
    tensors = form.layout.tensors
    if part is None:
        if {index: name for index, (name, _) in whole.items()} != form.whole:
            raise PayloadError(
                "the arrays beside the payload are not those that were sent"
            )
        names = form.names
    else:
        if not part or max(part) >= len(tensors):
            raise PayloadError(
                f"indices of arrays in the payload must be < {len(tensors)}, and at "
                "least one"
            )
        names = names_in_order([tensors[index].name for index in part], whole)
    beside = dict(whole.values())
    return {name: beside.get(name, EMPTY) for name in names}
