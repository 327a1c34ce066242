"""How payloads and arrays travel inside Flower messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, Message
from numpy.typing import NDArray

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flasc_flwr.flower.npy import read, written

STYPE = "flasc.payload"
"""Serialization type of an Array that holds a payload. Flower cannot read it as
numbers, so no aggregation mistakes it for a dense array."""

PAYLOAD = "payload"
"""Name of the one Array in an ArrayRecord that carries a payload."""

CONTROL = "flasc"
"""Key of the ConfigRecord with instructions for :func:`flasc_flwr.flasc_mod`."""

INTRODUCE = "introduce"
"""Entry of the CONTROL record that asks a node for its name and budget.

It travels in a ``train`` message: Flower runs mods only around functions that the app
has registered, and every ClientApp that takes part has a train function."""

MERGED = "merged"
"""Key of the ArrayRecord with what is merged into the backbone."""

BASES = "bases"
"""Key of the ArrayRecord with measured bases of cores, in the first message to a device
after they were measured."""

MEASURE = "measure-bases"
"""Entry of the record of settings in a message that asks for the client's own bases, in
place of training: arrays of the names and shapes that it receives."""

PART = "part/"
"""Prefix of the entries of the CONTROL record in a reply that list, by ArrayRecord,
which of the arrays received in a payload the reply's payload has; for records that have
other arrays than those received."""

UNCHANGED = "plain"
"""Entry of the CONTROL record in a reply: keys of the ArrayRecords that the mod sent
as they are, because their arrays are not the ones received."""

SAME = "same"
"""Entry of the CONTROL record in a reply: keys of the ArrayRecords that came back as
they were received, and are left out."""


def payload_record(payload: bytes) -> ArrayRecord:
    """Wrap a payload into the ArrayRecord that carries it."""
    array = Array(dtype="uint8", shape=(len(payload),), stype=STYPE, data=payload)
    return ArrayRecord({PAYLOAD: array})


def payload_of(record: ArrayRecord) -> bytes:
    """Return the payload that an ArrayRecord carries.

    Raises
    ------
    PayloadError
        If it carries something else.
    """
    if not holds_payload(record):
        kinds = sorted({array.stype for array in record.values()}) or ["nothing"]
        got = printable(", ".join(kinds[:10]), 100)
        raise PayloadError(
            f"expected one payload, got {got}: the ClientApp needs flasc_mod, "
            "ClientApp(mods=[flasc_mod])"
        )
    return record[PAYLOAD].data


def holds_payload(record: ArrayRecord) -> bool:
    """Return whether an ArrayRecord carries a payload."""
    return list(record) == [PAYLOAD] and record[PAYLOAD].stype == STYPE


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return copies of plain arrays as an ArrayRecord."""
    return ArrayRecord({name: written(array) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return copies of the plain arrays in an ArrayRecord."""
    return {name: array.numpy() for name, array in record.items()}


def views_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the plain arrays in an ArrayRecord, read-only and without a copy."""
    return {name: read(array) for name, array in record.items()}


def category(message_type: str) -> str:
    """Return what a message asks for, such as ``train``, of ``train.its_function``."""
    return message_type.partition(".")[0]


def message_bytes(messages: Iterable[Message]) -> list[int]:
    """Return the serialized size of each message, in bytes.

    Flower stores and sends the message and every object nested in it. Messages that
    share their content each count in full.
    """
    sizes = []
    sizes_by_content: dict[int, int] = {}
    # Within this context an object is hashed once, however many messages share it.
    with no_object_id_recompute():
        for message in messages:
            own = len(message.deflate())
            if not message.has_content():
                sizes.append(own)
                continue
            content = message.content
            if id(content) not in sizes_by_content:
                nested = get_all_nested_objects(content).values()
                sizes_by_content[id(content)] = sum(len(o.deflate()) for o in nested)
            sizes.append(own + sizes_by_content[id(content)])
    return sizes
