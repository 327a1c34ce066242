"""Parcels on the way to clients: packed at the server, opened on a device."""

from __future__ import annotations

from flwr.app import ArrayRecord

from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.core.finite import require_finite_tensors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.received import received_arrays
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.npy import read, written
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    beside_payload,
    names_in_order,
    packed,
)
from flasc_flwr.flower.transport.selection import encode_largest
from flasc_flwr.flower.wire import PAYLOAD

_NO_LIMITS = DeviceLimits()


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
    """Return the parcel of a payload and of a record's arrays that travel whole."""
    return packed(payload, DOWNLOAD, record, form.whole)


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
    """Return the form of a parcel and all its arrays, given what its payload holds.

    Parameters
    ----------
    parcel : ArrayRecord
        The parcel.
    layout : Layout
        Layout of the arrays in its payload, of size N.
    vector : NDArray[np.float32], shape (N,)
        These arrays.

    Raises
    ------
    PayloadError
        If the parcel is corrupt.
    """
    whole = beside_payload(parcel)
    form = Form(names_in_order([t.name for t in layout.tensors], whole), layout)
    dense = received_arrays(layout, vector)
    arrays = {name: written(array) for name, array in dense.items()}
    return form, form.in_order(arrays | dict(whole.values()))
