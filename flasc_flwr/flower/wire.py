"""How payloads and settings travel inside Flower messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from numpy.typing import NDArray

from flasc_flwr.codec import PayloadError
from flasc_flwr.methods import Trains
from flasc_flwr.sparsity import DENSITY

STYPE = "flasc.payload"
"""Serialization type of an Array that holds a payload: Flower's own code refuses to
read it as numbers, so that no aggregation ever mistakes it for a dense array."""

PAYLOAD = "payload"
"""Name of the one Array in an ArrayRecord that travels as a payload."""

CONTROL = "flasc"
"""Name of the ConfigRecord with what :func:`flasc_flwr.flasc_mod` has to know."""

INTRODUCE = "introduce"
"""Entry of that record which asks a node for its name and budget.

It travels in a ``train`` message: Flower runs mods only around functions that the app
has registered, and every ClientApp that takes part has a train function."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the server asks of a client's training.

    Attributes
    ----------
    density : float
        Fraction of the update to send, in (0, 1].
    value_format : str
        Value format of the payload.
    trains : Trains
        What the client may change of what it received.
    """

    density: float
    value_format: str
    trains: Trains = Trains.ALL

    def to_record(self) -> ConfigRecord:
        """Return the ConfigRecord that carries the order."""
        return ConfigRecord(
            {
                "upload-density": self.density,
                "value-format": self.value_format,
                "trains": self.trains.value,
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Order:
        """Read the order from its ConfigRecord.

        Raises
        ------
        ValueError
            If an entry is missing or ill-typed.
        """
        try:
            return cls(
                density=DENSITY.require("upload-density", record["upload-density"]),
                value_format=str(record["value-format"]),
                trains=Trains(str(record["trains"])),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the message's 'flasc' record is not understood ({error}): do server "
                "and client run the same flasc-flwr?"
            ) from None


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
        raise PayloadError(
            f"expected one payload, got {', '.join(kinds)}: the ClientApp needs "
            "flasc_mod, ClientApp(mods=[flasc_mod])"
        )
    return record[PAYLOAD].data


def holds_payload(record: ArrayRecord) -> bool:
    """Tell whether an ArrayRecord carries a payload."""
    return list(record) == [PAYLOAD] and record[PAYLOAD].stype == STYPE


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return plain arrays as an ArrayRecord."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the plain arrays in an ArrayRecord."""
    return {name: array.numpy() for name, array in record.items()}


def reason_of(message: Message) -> str:
    """Return why a message carries an error, in one line.

    Flower's reason is a whole traceback in simulation, whose last line tells.
    """
    reason = message.error.reason or f"error code {message.error.code}"
    last = [line for line in reason.splitlines() if line.strip()][-1]
    return last.removeprefix("Exception ClientAppException occurred. Message: ")


def message_bytes(messages: Iterable[Message]) -> list[int]:
    """Return the serialized size of each message, in bytes.

    What Flower stores and sends of a message: the message itself and every object
    nested in it. Messages that share their content are counted in full each.
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
