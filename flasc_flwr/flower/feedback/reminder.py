"""Reminders: what a message says about a device's memory, and what a device answers.

A device may have several memories, one for each ArrayRecord that it is sent: the names
of entries then end in a slash and the record's key.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ConfigRecord

from flasc_flwr.core.feedback.catching_up import CatchUp
from flasc_flwr.core.feedback.grid import GRIDS
from flasc_flwr.core.feedback.memory import RECEIPT_BYTES, Fading
from flasc_flwr.core.feedback.reference import VERSION_BYTES, Reference
from flasc_flwr.core.ranges import Range, integer, number, switch

HELD = "memory-held"
"""Entry of the CONTROL record in which a device says which reference it holds; empty
if it holds none. In a reply: it cannot use this message, and has to be sent more."""

SUM = "memory-sum"
"""Entry of the CONTROL record in a reply: the checksum of the device's reference."""

RUN_BYTES = 8
"""Length of the name of a run."""

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
    grid : str
        The numbers that references consist of.
    run : bytes
        Names the server's run: a device keeps its state from one to the next, and
        forgets what it has not sent of another one. Empty if the device is known to
        have done so.
    """

    round: int
    taken: bytes | None = None
    fading: Fading = _NO_FADING
    base: bytes | None = None
    whole: bool = False
    lengths: tuple[int, ...] = ()
    grid: str = "float32"
    run: bytes = b""

    def with_way(self, way: CatchUp) -> tuple[Reminder, bytes]:
        """Return the reminder for a way to the newest reference, and its payloads."""
        payloads = way.payloads if way.start is None else (way.start, *way.payloads)
        lengths = tuple(len(payload) for payload in payloads)
        reminder = replace(
            self,
            base=way.base,
            whole=way.start is not None,
            lengths=lengths[:-1],
            grid=way.grid,
        )
        return reminder, b"".join(payloads)

    def along(self, way: Reminder) -> Reminder:
        """Return this reminder with another one's way to the newest reference."""
        return replace(
            self, base=way.base, whole=way.whole, lengths=way.lengths, grid=way.grid
        )

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
        return CatchUp(self.base, first, tuple(payloads), self.grid)

    def add_to(self, record: MutableMapping[str, Any], key: str = "") -> None:
        """Add the entries that carry it to a CONTROL record, without defaults.

        Parameters
        ----------
        record : MutableMapping[str, Any]
            The CONTROL record.
        key : str
            Key of the ArrayRecord that it is about, if there may be several.
        """
        entries = {
            "round": self.round,
            "taken": self.taken,
            "decay": self.fading.decay if self.fading != _NO_FADING else None,
            "base": self.base,
            "whole": self.whole or None,
            "lengths": list(self.lengths) or None,
            "grid": self.grid if self.grid != "float32" else None,
            "run": self.run or None,
        }
        for name, value in entries.items():
            if value is not None:
                record[_entry(name, key)] = value

    @classmethod
    def take_from(cls, record: ConfigRecord, key: str = "") -> Reminder | None:
        """Take its entries out of a CONTROL record; None if there is none.

        Parameters
        ----------
        record : ConfigRecord
            The CONTROL record.
        key : str
            Key of the ArrayRecord that it is about, if there may be several.

        Raises
        ------
        ValueError
            If an entry is of another type or out of range.
        """
        if _entry("round", key) not in record:
            return None
        lengths: Any = record.pop(_entry("lengths", key), [])
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
            round=_plain(record, _entry("round", key), integer(0)),
            taken=_exactly(record, _entry("taken", key), RECEIPT_BYTES),
            fading=Fading(
                decay=_plain(
                    record, _entry("decay", key), number("[0, 1]"), _NO_FADING.decay
                )
            ),
            base=_exactly(record, _entry("base", key), VERSION_BYTES),
            whole=_plain(record, _entry("whole", key), switch(), False),
            lengths=tuple(lengths),
            grid=_one_of(record, _entry("grid", key), GRIDS),
            run=_exactly(record, _entry("run", key), RUN_BYTES) or b"",
        )


def holding(reference: Reference, key: str = "") -> ConfigRecord:
    """Return what a device says of the reference that it has trained from."""
    return ConfigRecord({of_record(SUM, key): reference.checksum})


def cannot_use(held: bytes | None, key: str = "") -> ConfigRecord:
    """Return what a device answers that cannot use a message: what it holds."""
    return ConfigRecord({of_record(HELD, key): held or b""})


def held_in(answer: Mapping[str, Any], key: str = "") -> bytes | None:
    """Return which reference a device says that it holds; None for none."""
    held = answer.get(of_record(HELD, key))
    return held if isinstance(held, bytes) and len(held) == VERSION_BYTES else None


def of_record(entry: str, key: str) -> str:
    """Return the name of an entry that is about the ArrayRecord of a key."""
    return f"{entry}/{key}" if key else entry


def _entry(name: str, key: str) -> str:
    return of_record(f"memory-{name}", key)


def _one_of(record: ConfigRecord, key: str, allowed: Sequence[str]) -> str:
    """Take the name of a choice out of a record; the first one by default."""
    value = record.pop(key, allowed[0])
    if not isinstance(value, str) or value not in allowed:
        # Never quoted: it may be of any length.
        raise ValueError(f"{key} must be one of {', '.join(allowed)}")
    return value


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
