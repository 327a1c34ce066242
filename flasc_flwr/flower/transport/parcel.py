"""A parcel: an ArrayRecord with one payload and the arrays that travel whole.

The payload is the Array of the name `PAYLOAD`. Small arrays that travel whole are
together in the Array `BUNDLE`. Each other one has its index in the record before its
name, as in ``3/mask``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.transport.bundle import Beside, bundled, unbundled
from flasc_flwr.flower.wire import PAYLOAD, STYPE

# Flower's error quotes these if other code reads a payload as numbers.
DOWNLOAD = f"{STYPE} (read by flasc_mod: ClientApp(mods=[flasc_mod, ...]))"
UPLOAD = f"{STYPE} (read by SparseTransport, which must be the outermost strategy)"

BUNDLE = "bundle"
"""Name of the Array in a parcel with the small arrays that travel whole."""

EMPTY = Array(np.zeros(0, np.float32))
"""Stands for an array that is in the payload."""

_DIGITS = 9
"""Most digits of an index: Python does not parse numbers of thousands of digits."""

Sent = TypeVar("Sent")


def is_parcel(record: ArrayRecord, stype: str) -> bool:
    """Return whether a record is a parcel in this direction: DOWNLOAD or UPLOAD."""
    return PAYLOAD in record and record[PAYLOAD].stype == stype


def match_sent(sent: Mapping[str, Sent], key: str, in_reply: int) -> Sent | None:
    """Return the record of a message that a record of its reply corresponds to.

    It is the one of the same key, or the only one if there is one ArrayRecord each way.

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


def packed(
    payload: bytes, stype: str, record: ArrayRecord, whole: Mapping[int, str]
) -> ArrayRecord:
    """Return a parcel.

    Parameters
    ----------
    payload : bytes
        The payload.
    stype : str
        The direction: DOWNLOAD or UPLOAD.
    record : ArrayRecord
        The record with the arrays that travel whole.
    whole : Mapping[int, str]
        Their names, by their indices in the record.
    """
    parcel = ArrayRecord()
    parcel[PAYLOAD] = Array("uint8", (len(payload),), stype, payload)
    bundle, inside = bundled({i: (name, record[name]) for i, name in whole.items()})
    if bundle:
        parcel[BUNDLE] = Array("uint8", (len(bundle),), stype, bundle)
    for index, name in whole.items():
        if index not in inside:
            parcel[f"{index}/{name}"] = record[name]
    return parcel


def beside_payload(parcel: ArrayRecord) -> Beside:
    """Return the arrays of a parcel that travelled whole, with names, by index.

    Raises
    ------
    PayloadError
        If the bundle is corrupt, or a name has no index or that of another array.
    """
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


def names_in_order(in_payload: Sequence[str], whole: Beside) -> tuple[str, ...]:
    """Return all names of a record in their order.

    Arrays that travelled whole are at their indices, and those of the payload fill the
    places between them.

    Parameters
    ----------
    in_payload : Sequence[str]
        Names of the arrays in the payload, in order.
    whole : dict[int, tuple[str, Array]]
        What :func:`beside_payload` returns.

    Raises
    ------
    PayloadError
        If an index is too large, or a name appears twice.
    """
    waiting = iter(in_payload)
    names: dict[str, int] = {}
    for index in range(len(in_payload) + len(whole)):
        name = whole[index][0] if index in whole else next(waiting, None)
        if name is None or name in names:
            raise PayloadError(f"no array of the parcel belongs at index {index}")
        names[name] = index
    return tuple(names)
