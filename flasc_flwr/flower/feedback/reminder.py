"""Reminders: what a message says about a device's memory, and what a device answers."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord

from flasc_flwr.core.feedback.catching_up import CatchUp
from flasc_flwr.core.feedback.memory import RECEIPT_BYTES, Fading
from flasc_flwr.core.feedback.reference import VERSION_BYTES, Reference
from flasc_flwr.core.ranges import Range, integer, number, switch

HELD = "memory-held"
"""Entry of the CONTROL record in which a device says which reference it holds; empty
if it holds none. In a reply: it cannot use this message, and has to be sent more."""

SUM = "memory-sum"
"""Entry of the CONTROL record in a reply: the checksum of the device's reference."""

_NO_FADING = Fading(decay=1.0)
_MOST_PAYLOADS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Reminder:
    """What a message says about a device's memory.

    Attributes
    ----------
    round : int
        The server's round.
    taken : bytes or None
        Receipt of the device's reply that the server took in last; None for none.
    fading : Fading
        How the residual fades while the device is away.
    base : bytes or None
        Version of the reference that the download builds on; None if the download
        needs no memory.
    whole : bool
        Whether the first payload is that reference itself.
    lengths : tuple[int, ...]
        Bytes of each payload but the last in the download.
    """

    round: int
    taken: bytes | None = None
    fading: Fading = _NO_FADING
    base: bytes | None = None
    whole: bool = False
    lengths: tuple[int, ...] = ()

    def with_way(self, way: CatchUp) -> tuple[Reminder, bytes]:
        """Return the reminder for a way to the newest reference, and its payloads."""
        payloads = way.payloads if way.start is None else (way.start, *way.payloads)
        lengths = tuple(len(payload) for payload in payloads)
        reminder = Reminder(
            round=self.round,
            taken=self.taken,
            fading=self.fading,
            base=way.base,
            whole=way.start is not None,
            lengths=lengths[:-1],
        )
        return reminder, b"".join(payloads)

    def way(self, data: bytes) -> CatchUp:
        """Return the way to the newest reference that a download's bytes describe.

        Raises
        ------
        ValueError
            If the lengths do not fit the bytes, or the download needs no memory.
        """
        rest = len(data) - sum(self.lengths)
        if self.base is None or rest < 0:
            raise ValueError(
                f"lengths of the payloads must be <= {len(data)} together, got "
                f"{sum(self.lengths)}"
            )
        payloads = []
        start = 0
        for length in (*self.lengths, rest):
            payloads.append(data[start : start + length])
            start += length
        payloads = [payload for payload in payloads if payload]
        if self.whole and not payloads:
            raise ValueError("the whole reference must have at least 1 byte, got 0")
        first = payloads.pop(0) if self.whole else None
        return CatchUp(self.base, first, tuple(payloads))

    def add_to(self, record: MutableMapping[str, Any]) -> None:
        """Add the entries that carry it to a CONTROL record, without defaults."""
        record["memory-round"] = self.round
        if self.taken is not None:
            record["memory-taken"] = self.taken
        if self.fading != _NO_FADING:
            record["memory-decay"] = self.fading.decay
        if self.base is not None:
            record["memory-base"] = self.base
        if self.whole:
            record["memory-whole"] = True
        if self.lengths:
            record["memory-lengths"] = list(self.lengths)

    @classmethod
    def take_from(cls, record: ConfigRecord) -> Reminder | None:
        """Take its entries out of a CONTROL record; None if there is none.

        Raises
        ------
        ValueError
            If an entry is of another type or out of range.
        """
        if "memory-round" not in record:
            return None
        lengths: Any = record.pop("memory-lengths", [])
        if (
            not isinstance(lengths, list)
            or len(lengths) > _MOST_PAYLOADS
            or not all(type(length) is int and length >= 0 for length in lengths)
        ):
            raise ValueError(
                f"memory-lengths must be a list of at most {_MOST_PAYLOADS} integers "
                ">= 0"
            )
        return cls(
            round=_plain(record, "memory-round", integer(0)),
            taken=_exactly(record, "memory-taken", RECEIPT_BYTES),
            fading=Fading(
                decay=_plain(record, "memory-decay", number("[0, 1]"), _NO_FADING.decay)
            ),
            base=_exactly(record, "memory-base", VERSION_BYTES),
            whole=_plain(record, "memory-whole", switch(), False),
            lengths=tuple(lengths),
        )


def holding(reference: Reference) -> ConfigRecord:
    """Return what a device says of the reference that it has trained from."""
    return ConfigRecord({SUM: reference.checksum})


def cannot_use(held: bytes | None) -> ConfigRecord:
    """Return what a device answers that cannot use a message: what it holds."""
    return ConfigRecord({HELD: held or b""})


def held_in(answer: Mapping[str, Any]) -> bytes | None:
    """Return which reference a device says that it holds; None for none."""
    held = answer.get(HELD)
    return held if isinstance(held, bytes) and len(held) == VERSION_BYTES else None


def _plain(record: ConfigRecord, key: str, range: Range, default: Any = None) -> Any:
    """Take a number or a switch out of a record, and check it."""
    value = record.pop(key, default)
    if not isinstance(value, int | float):
        value = type(value).__name__
    return range.require(key, value)


def _exactly(record: ConfigRecord, key: str, length: int) -> bytes | None:
    value = record.pop(key, None)
    if value is None or (isinstance(value, bytes) and len(value) == length):
        return value
    got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
    raise ValueError(f"{key} must be {length} bytes, got {got}")
