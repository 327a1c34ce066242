"""A parcel: an ArrayRecord of one payload and the arrays that travel whole."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, decode, read_layout
from flasc_flwr.core.finite import require_finite_tensors
from flasc_flwr.core.fitting import fit_payload
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.printable import printable
from flasc_flwr.core.received import received_arrays
from flasc_flwr.core.sparsity import SparseVector, top_k
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.wire import PAYLOAD, STYPE

# Flower's error quotes these where something else reads a payload as numbers.
DOWNLOAD = f"{STYPE} (read by flasc_mod: ClientApp(mods=[flasc_mod, ...]))"
UPLOAD = f"{STYPE} (read by SparseTransport, which must be the outermost strategy)"

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

    Raises
    ------
    ValueError
        If an array of the payload holds NaN or infinity (the message names it), or
        the bytes are too few for any payload.
    """
    tensors = form.layout.tensors
    vector = form.layout.flatten({t.name: record[t.name].numpy() for t in tensors})
    require_finite_tensors(form.layout, vector)
    payload = fit_payload(
        partial(top_k, vector),
        value_format,
        layout=form.layout,
        size=form.layout.size,
        density=density,
        most=most_bytes,
        key="download-bytes",
        carry_layout=True,
    ).payload
    return _pack(form, payload, DOWNLOAD, record)


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
    whole = _whole_of(parcel)
    in_payload = iter([tensor.name for tensor in layout.tensors])
    names: dict[str, int] = {}
    for index in range(len(layout.tensors) + len(whole)):
        name = whole[index][0] if index in whole else next(in_payload, None)
        if name is None or name in names:
            raise PayloadError(f"no array of the parcel belongs at index {index}")
        names[name] = index
    form = Form(tuple(names), layout)
    sparse = decode(payload, size=layout.size)
    limits.let_in_adapter(layout, sparse.kept)
    dense = received_arrays(layout, sparse.densify())
    arrays = {name: Array(array) for name, array in dense.items()}
    return form, form.in_order(arrays | dict(whole.values()))


def pack_upload(
    form: Form,
    trained: ArrayRecord,
    received: ArrayRecord,
    density: float,
    value_format: str,
    *,
    most_bytes: int = 0,
) -> ArrayRecord:
    """Return the parcel with the largest entries of trained minus received.

    The arguments are those of :func:`pack_download`.

    Raises
    ------
    ValueError
        If the difference holds NaN or infinity (the message names the array), or the
        bytes are too few for it.
    """
    update = np.empty(form.layout.size, np.float32)
    for tensor, place in form.layout.slices():
        new, old = trained[tensor.name].numpy(), received[tensor.name].numpy()
        # A small step of a float64 would be lost if it were rounded first.
        wide = np.result_type(np.float32, new, old)
        update[place] = np.subtract(new, old, dtype=wide).ravel()
    require_finite_tensors(form.layout, update)
    payload = fit_payload(
        partial(top_k, update),
        value_format,
        layout=form.layout,
        size=form.layout.size,
        density=density,
        most=most_bytes,
        key="upload-bytes",
    ).payload
    return _pack(form, payload, UPLOAD, trained)


def open_upload(
    parcel: ArrayRecord, form: Form
) -> tuple[SparseVector, dict[str, Array]]:
    """Return the update in a parcel, and the arrays that travelled whole.

    Raises
    ------
    PayloadError
        If the parcel is corrupt, or has another form.
    """
    whole = _whole_of(parcel)
    if {index: name for index, (name, _) in whole.items()} != form.whole:
        raise PayloadError("the arrays beside the payload are not those that were sent")
    layout = form.layout
    payload = parcel[PAYLOAD].data
    update = decode(payload, size=layout.size, fingerprint=layout.fingerprint)
    return update, dict(whole.values())


def _pack(form: Form, payload: bytes, stype: str, record: ArrayRecord) -> ArrayRecord:
    parcel = ArrayRecord()
    parcel[PAYLOAD] = Array("uint8", (len(payload),), stype, payload)
    for index, name in form.whole.items():
        parcel[f"{index}/{name}"] = record[name]
    return parcel


def _whole_of(parcel: ArrayRecord) -> dict[int, tuple[str, Array]]:
    """Return the names and Arrays beside a payload, by their index."""
    whole = {}
    for key, array in parcel.items():
        if key == PAYLOAD:
            continue
        index, slash, name = key.partition("/")
        if not (slash and index.isdecimal() and len(index) <= _DIGITS):
            shown = printable(key, 100)
            raise PayloadError(f"array {shown!r} has no index before its name")
        if int(index) in whole:
            raise PayloadError(f"two arrays have the index {int(index)}")
        whole[int(index)] = name, array
    return whole
