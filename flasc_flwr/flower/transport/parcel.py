"""A parcel: an ArrayRecord of one payload and the arrays that travel whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, decode, read_layout
from flasc_flwr.core.finite import require_finite_tensors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.printable import printable
from flasc_flwr.core.received import received_arrays
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.npy import read, written
from flasc_flwr.flower.transport.bundle import bundled, unbundled
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.selection import encode_largest
from flasc_flwr.flower.wire import PAYLOAD, STYPE

# Flower's error quotes these where something else reads a payload as numbers.
DOWNLOAD = f"{STYPE} (read by flasc_mod: ClientApp(mods=[flasc_mod, ...]))"
UPLOAD = f"{STYPE} (read by SparseTransport, which must be the outermost strategy)"

BUNDLE = "bundle"
"""Name of the Array in a parcel with the small arrays that travel whole."""

_DIGITS = 9
"""Most digits of an index: Python refuses to read a number of thousands."""

_NO_LIMITS = DeviceLimits()

Sent = TypeVar("Sent")


def is_parcel(record: ArrayRecord, stype: str) -> bool:
    """Return whether a record is a parcel in this direction: DOWNLOAD or UPLOAD."""
    return PAYLOAD in record and record[PAYLOAD].stype == stype


def match_sent(sent: Mapping[str, Sent], key: str, in_reply: int) -> Sent | None:
    """Return which record of a message a record of its reply corresponds to.

    The one of the same key; or the only one, if there is one ArrayRecord each way.

    Parameters
    ----------
    sent : Mapping[str, Sent]
        The records of the message, by key.
    key : str
        Key of the reply's record.
    in_reply : int
        Number of ArrayRecords in the reply.
    """
    if key in sent or len(sent) != 1 or in_reply != 1:
        return sent.get(key)
    (only,) = sent.values()
    return only


def pack_download(
    form: Form,
    record: ArrayRecord,
    density: float,
    value_format: str,
    *,
    most_bytes: int = 0,
    quota: str = "none",
) -> ArrayRecord:
    """Return the parcel with the largest entries of a record.

    Parameters
    ----------
    form : Form
        Which arrays the payload holds.
    record : ArrayRecord
        The arrays.
    density : float
        The largest fraction of their entries to send, in (0, 1].
    value_format : str
        Value format of the payload.
    most_bytes : int
        Most bytes of the payload; 0 is no limit.
    quota : str
        Where entries compete: over the whole record, or within each array.

    Raises
    ------
    ValueError
        If an array of the payload holds NaN or infinity (the message names it), or
        the bytes are too few for any payload.
    """
    payload = encode_largest(
        vector_of(form, record),
        form.layout,
        density=density,
        values=value_format,
        most=most_bytes,
        key="download-bytes",
        quota=quota,
        carry_layout=True,
    )
    return packed_download(form, payload, record)


def vector_of(form: Form, record: ArrayRecord) -> Vector:
    """Return the arrays of a record's payload as one vector.

    Raises
    ------
    ValueError
        If one holds NaN or infinity; the message names it.
    """
    tensors = form.layout.tensors
    vector = form.layout.flatten({t.name: read(record[t.name]) for t in tensors})
    require_finite_tensors(form.layout, vector)
    return vector


def packed_download(form: Form, payload: bytes, record: ArrayRecord) -> ArrayRecord:
    """Return the parcel of a payload, and of the arrays that travel whole."""
    return _pack(payload, DOWNLOAD, record, form.whole)


def layout_of(parcel: ArrayRecord) -> Layout:
    """Return the layout of the arrays in a parcel's payload.

    Raises
    ------
    PayloadError
        If the parcel is corrupt.
    """
    return read_layout(parcel[PAYLOAD].data)


def open_download(
    parcel: ArrayRecord, limits: DeviceLimits = _NO_LIMITS
) -> tuple[Form, ArrayRecord]:
    """Return the form of a parcel, and its arrays as the ClientApp sees them.

    Masked and rounded, in their original dtypes and order.

    Raises
    ------
    PayloadError
        If the parcel is corrupt.
    RefusedDownloadError
        If it is beyond the device's limits.
    """
    payload = parcel[PAYLOAD].data
    limits.let_in_payload(payload)
    layout = layout_of(parcel)
    sparse = decode(payload, size=layout.size)
    limits.let_in_adapter(layout, sparse.kept)
    return with_payload(parcel, layout, sparse.densify())


def with_payload(
    parcel: ArrayRecord, layout: Layout, vector: Vector
) -> tuple[Form, ArrayRecord]:
    """Return the form of a parcel, and its arrays, given those of its payload.

    Parameters
    ----------
    parcel : ArrayRecord
        The parcel.
    layout : Layout
        Layout of the arrays that its payload stands for, of size N.
    vector : NDArray[np.float32], shape (N,)
        Those arrays.

    Raises
    ------
    PayloadError
        If the parcel is corrupt.
    """
    whole = _whole_of(parcel)
    form = Form(_names([t.name for t in layout.tensors], whole), layout)
    dense = received_arrays(layout, vector)
    arrays = {name: written(array) for name, array in dense.items()}
    return form, form.in_order(arrays | dict(whole.values()))


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
        Which tensors of the form's layout it is of; the reply's other arrays travel
        whole.
    reply : ArrayRecord
        The reply.
    """
    if form.fits(reply):
        return _pack(payload, UPLOAD, reply, form.whole)
    inside = {form.layout.tensors[index].name for index in part}
    whole = {i: name for i, name in enumerate(reply) if name not in inside}
    return _pack(payload, UPLOAD, reply, whole)


def open_upload(
    parcel: ArrayRecord, form: Form, part: Sequence[int] | None = None
) -> tuple[SparseVector, ArrayRecord]:
    """Return the update in a parcel, and the names of the reply's arrays.

    Parameters
    ----------
    parcel : ArrayRecord
        The parcel.
    form : Form
        Form of what was sent.
    part : Sequence[int], optional
        Which tensors of the form's layout the reply has in the payload; None where it
        has exactly the arrays that were sent.

    Returns
    -------
    SparseVector and ArrayRecord
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
) -> ArrayRecord:
    """Return what :func:`open_upload` returns beside the update.

    Raises
    ------
    PayloadError
        If the parcel has another form.
    """
    whole = _whole_of(parcel)
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
        names = _names([tensors[index].name for index in part], whole)
    beside = dict(whole.values())
    arrays = ArrayRecord()  # which keeps its arrays, where its constructor copies them
    for name in names:
        arrays[name] = beside.get(name, EMPTY)
    return arrays


EMPTY = Array(np.zeros(0, np.float32))
"""Stands for an array that is in the payload."""


def _pack(
    payload: bytes, stype: str, record: ArrayRecord, whole: Mapping[int, str]
) -> ArrayRecord:
    parcel = ArrayRecord()
    parcel[PAYLOAD] = Array("uint8", (len(payload),), stype, payload)
    bundle, inside = bundled({i: (name, record[name]) for i, name in whole.items()})
    if bundle:
        parcel[BUNDLE] = Array("uint8", (len(bundle),), stype, bundle)
    for index, name in whole.items():
        if index not in inside:
            parcel[f"{index}/{name}"] = record[name]
    return parcel


def _names(
    in_payload: Sequence[str], whole: Mapping[int, tuple[str, Array]]
) -> tuple[str, ...]:
    """Return all names of a record: those beside the payload have their own indices."""
    waiting = iter(in_payload)
    names: dict[str, int] = {}
    for index in range(len(in_payload) + len(whole)):
        name = whole[index][0] if index in whole else next(waiting, None)
        if name is None or name in names:
            raise PayloadError(f"no array of the parcel belongs at index {index}")
        names[name] = index
    return tuple(names)


def _whole_of(parcel: ArrayRecord) -> dict[int, tuple[str, Array]]:
    """Return the names and Arrays beside a payload, by their index."""
    whole = unbundled(parcel[BUNDLE].data) if BUNDLE in parcel else {}
    for key, array in parcel.items():
        if key in (PAYLOAD, BUNDLE):
            continue
        index, slash, name = key.partition("/")
        if not (slash and index.isdecimal() and len(index) <= _DIGITS):
            shown = printable(key, 100)
            raise PayloadError(f"array {shown!r} has no index before its name")
        if int(index) in whole:
            raise PayloadError(f"two arrays have the index {int(index)}")
        whole[int(index)] = name, array
    return whole
