"""Parcels: an ArrayRecord as one payload, and beside it what travels whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, decode, encode, read_layout
from flasc_flwr.core.layout import FLOATING, Layout, Vector
from flasc_flwr.core.sparsity import SparseVector, top_k
from flasc_flwr.flower.compat import SType
from flasc_flwr.flower.wire import PAYLOAD, STYPE, Instructions

# Whoever reads a payload as numbers gets an error from Flower that quotes these.
DOWNLOAD = f"{STYPE} (read by flasc_mod: ClientApp(mods=[flasc_mod, ...]))"
UPLOAD = f"{STYPE} (read by SparseTransport, which must be the outermost strategy)"


@dataclass(frozen=True, eq=False)
class Form:
    """How the arrays of an ArrayRecord travel.

    Attributes
    ----------
    names : tuple[str, ...]
        All arrays, in the order of the ArrayRecord.
    layout : Layout
        Those that the payload holds. The others travel whole.
    """

    names: tuple[str, ...]
    layout: Layout

    @classmethod
    def of(cls, record: ArrayRecord, sparse: Collection[int]) -> Form:
        """Describe a record of which the payload holds some arrays, by index."""
        # Arrays without memory: only their shapes and dtypes count here.
        shapes = {
            name: np.broadcast_to(np.zeros((), array.dtype), array.shape)
            for index, (name, array) in enumerate(record.items())
            if index in sparse
        }
        return cls(tuple(record), Layout.of(shapes))

    @property
    def sparse(self) -> tuple[int, ...]:
        """Where the arrays in the payload stand."""
        whole = self.whole
        return tuple(i for i in range(len(self.names)) if i not in whole)

    @cached_property
    def whole(self) -> dict[int, str]:
        """The arrays that travel whole, by where they stand."""
        inside = {tensor.name for tensor in self.layout.tensors}
        return {i: name for i, name in enumerate(self.names) if name not in inside}

    def fits(self, record: ArrayRecord) -> bool:
        """Tell whether a record can be compared with one of this form."""
        return set(record) == set(self.names) and all(
            is_numbers(record[tensor.name])
            and tuple(record[tensor.name].shape) == tensor.shape
            for tensor in self.layout.tensors
        )


def is_numbers(array: Array) -> bool:
    """Tell whether an Array holds floating-point numbers that a layout may have."""
    return array.stype == SType.NUMPY and array.dtype in FLOATING


def sparse_arrays(record: ArrayRecord, whole: Sequence[str] | None) -> tuple[int, ...]:
    """Return which arrays of a record its payload is to hold, by index.

    All that are floating point, but for those that `whole` names. Without names: but
    for those of fewer than two axes, such as biases, scales and running statistics.
    They are few, and do harm as zeros: a model divides by its running variance. In a
    record without matrices: but for those of no axis.

    Parameters
    ----------
    record : ArrayRecord
        What is to be sent.
    whole : Sequence[str], optional
        Names, or shell patterns of names such as ``*.bias``.
    """
    numbers = {n: a for n, a in record.items() if is_numbers(a) and 0 not in a.shape}
    if whole is None:
        axes = min(2, max((len(a.shape) for a in numbers.values()), default=0))
        sparse = {name for name, a in numbers.items() if len(a.shape) >= axes}
    else:
        sparse = {n for n in numbers if not any(fnmatchcase(n, p) for p in whole)}
    return tuple(i for i, name in enumerate(record) if name in sparse)


def is_parcel(record: ArrayRecord, stype: str) -> bool:
    """Tell whether a record is a parcel going this way: DOWNLOAD or UPLOAD."""
    return PAYLOAD in record and record[PAYLOAD].stype == stype


def pack_download(
    form: Form, record: ArrayRecord, density: float, value_format: str
) -> ArrayRecord:
    """Return the parcel that carries the largest entries of a record.

    Raises
    ------
    ValueError
        If the record holds NaN or infinity.
    """
    tensors = form.layout.tensors
    vector = form.layout.flatten({t.name: record[t.name].numpy() for t in tensors})
    sparse = top_k(vector, density)
    payload = encode(sparse, value_format, layout=form.layout, carry_layout=True)
    return _pack(form, payload, DOWNLOAD, record)


def open_download(parcel: ArrayRecord) -> tuple[Form, ArrayRecord]:
    """Return the form of a parcel, and its arrays as the app is to see them.

    Masked and rounded, in their own dtypes and their own order.

    Raises
    ------
    PayloadError
        If the parcel is defect.
    """
    payload = parcel[PAYLOAD].data
    layout = read_layout(payload)
    whole = _whole_of(parcel)
    inside = iter([tensor.name for tensor in layout.tensors])
    names = []
    for index in range(len(layout.tensors) + len(whole)):
        name = whole[index][0] if index in whole else next(inside, None)
        if name is None or name in names:
            raise PayloadError(f"the arrays beside the payload leave no place {index}")
        names.append(name)
    form = Form(tuple(names), layout)
    start = decode(payload, size=layout.size).densify()
    return form, _assemble(form, start, dict(whole.values()))


def pack_upload(
    form: Form, trained: ArrayRecord, received: ArrayRecord, order: Instructions
) -> ArrayRecord:
    """Return the parcel with the largest entries of trained minus received.

    Raises
    ------
    ValueError
        If the order asks for no arrays, or the difference holds NaN or infinity.
    """
    if order.density is None:
        raise ValueError("no arrays were asked for")
    update = np.empty(form.layout.size, np.float32)
    for tensor, place in form.layout.slices():
        new, old = trained[tensor.name].numpy(), received[tensor.name].numpy()
        # A small step of a float64 would be lost if it were rounded first.
        exact = np.result_type(np.float32, new, old)
        update[place] = np.subtract(new, old, dtype=exact).ravel()
    sparse = top_k(update, order.density)
    payload = encode(sparse, order.value_format, layout=form.layout)
    return _pack(form, payload, UPLOAD, trained)


def open_upload(
    parcel: ArrayRecord, form: Form
) -> tuple[SparseVector, dict[str, Array]]:
    """Return the update in a parcel, and the arrays that travelled whole.

    Raises
    ------
    PayloadError
        If the parcel is defect, or of another form.
    """
    whole = _whole_of(parcel)
    if {index: name for index, (name, _) in whole.items()} != form.whole:
        raise PayloadError("the arrays beside the payload are not those that were sent")
    layout = form.layout
    payload = parcel[PAYLOAD].data
    sparse = decode(payload, size=layout.size, fingerprint=layout.fingerprint)
    return sparse, dict(whole.values())


def record_of(form: Form, arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return Arrays as an ArrayRecord in the order of a form."""
    record = ArrayRecord()
    for name in form.names:
        record[name] = arrays[name]
    return record


def _assemble(form: Form, vector: Vector, whole: Mapping[str, Array]) -> ArrayRecord:
    inside = form.layout.unflatten(vector)
    arrays = {name: Array(array) for name, array in inside.items()}
    return record_of(form, arrays | dict(whole))


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
        if not (slash and index.isdecimal()):
            raise PayloadError(f"array {key!r} has no index before its name")
        whole[int(index)] = name, array
    return whole
