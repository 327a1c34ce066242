"""Reading the instructions in a message, which may hold anything."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from itertools import pairwise
from typing import Any

from flasc_flwr.core.codec import MOST_TENSORS, VALUES
from flasc_flwr.core.layout import Role
from flasc_flwr.core.methods.budget import DENSITIES
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.scores import QUOTAS
from flasc_flwr.core.methods.trainable import Trainable
from flasc_flwr.core.printable import printable
from flasc_flwr.core.ranges import Range, choice, integer, number, switch
from flasc_flwr.core.segments import SEGMENTS, Segment

SPARSE = "sparse/"
"""Prefix of the entries that list, by ArrayRecord, the arrays inside the payload."""

REPLIES = "replies/"
"""Prefix of the entries that say, by ArrayRecord, what replies hold."""

WORDS = ("auto", "weights", "updates")
"""What replies may hold: the arrays received, trained; or what is to be added to them;
or either, to be found out."""

_MOST_SHOWN = 3
_LONGEST = 60
"""Longest text of a message that an error quotes, in characters."""

_PLAIN: dict[str, Range] = {
    "init-seed": integer(0),
    "clip-norm": number("(0, inf)"),
    "on-support": switch(),
    "quota": choice(*QUOTAS),
}
"""Entries that stand for themselves: their field has the same name."""


def read_instructions(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`~.Instructions`; empties the record.

    Raises
    ------
    ValueError or OverflowError
        If an entry is missing, unknown, of another type or out of range.
    """
    found: dict[str, Any] = {}
    if "upload-density" in record:
        found["density"] = _take(record, "upload-density", number("(0, 1]"))
        found["value_format"] = _take(record, "value-format", VALUES)
        if "upload-bytes" in record:
            found["upload_bytes"] = _take(record, "upload-bytes", integer(1))
    if "trains" in record:
        roles = _names(record, "trains", [role.value for role in Role])
        support_only = _take(record, "support-only", switch())
        found["trainable"] = Trainable(frozenset(map(Role, roles)), support_only)
    for key, allowed in _PLAIN.items():
        if key in record:
            found[key.replace("-", "_")] = _take(record, key, allowed)
    if "role-densities" in record:
        found["roles"] = _roles(record, "role-densities")
    if "upload-segment" in record:
        found["segment"] = _segment(record, "upload-segment")
    if "prescribed" in record:
        found["prescribed"] = _names(record, "prescribed", DENSITIES)
    found["sparse"] = {
        key.removeprefix(SPARSE): indices_in(record.pop(key), key)
        for key in list(record)
        if key.startswith(SPARSE)
    }
    found["replies"] = {
        key.removeprefix(REPLIES): _take(record, key, choice(*WORDS))
        for key in list(record)
        if key.startswith(REPLIES)
    }
    if record:
        shown = [printable(key, _LONGEST) for key in sorted(record)[:_MOST_SHOWN]]
        more = len(record) - len(shown)
        raise ValueError(f"unknown entries {shown}" + f" and {more} more" * bool(more))
    return found


def _take(record: dict[str, Any], key: str, range: Range) -> Any:
    """Take an entry out of a record, and check it."""
    value = record.pop(key, None)
    if isinstance(value, list | bytes) or (
        isinstance(value, str) and len(value) > _LONGEST
    ):
        value = f"{type(value).__name__} of length {len(value)}"
    return range.require(key, value)


def _names(record: dict[str, Any], key: str, known: Collection[str]) -> frozenset[str]:
    """Take a list of distinct known names out of a record."""
    value = record.pop(key)
    if (
        not isinstance(value, list)
        or len(value) > len(known)
        or not all(isinstance(name, str) and name in known for name in value)
    ):
        raise ValueError(f"{key} must be a list of some of {', '.join(known)}")
    return frozenset(value)


def _roles(record: dict[str, Any], key: str) -> RoleDensities:
    """Take the densities of roles out of a record."""
    value = record.pop(key)
    if isinstance(value, list) and all(type(number) is float for number in value):
        with suppress(ValueError):
            return RoleDensities.of(value)
    raise ValueError(f"{key} must be 4 numbers in [0, 1]")


def _segment(record: dict[str, Any], key: str) -> Segment:
    """Take an index and a count of segments out of a record."""
    value = record.pop(key)
    if isinstance(value, list) and [type(number) for number in value] == [int, int]:
        index, count = value
        if SEGMENTS.check(count) is not None and 0 <= index < count:
            return Segment(index, count)
    raise ValueError(f"{key} must be an index and a larger count")


def indices_in(value: Any, key: str) -> tuple[int, ...]:
    """Return the ascending indices in an entry, which may hold anything.

    Raises
    ------
    ValueError
        If it does not hold such a list.
    """
    if (
        not isinstance(value, list)
        or len(value) > MOST_TENSORS
        or not all(type(index) is int and index >= 0 for index in value)
        or any(after <= before for before, after in pairwise(value))
    ):
        raise ValueError(
            f"{printable(key, _LONGEST)} must be a list of at most {MOST_TENSORS} "
            "ascending integers >= 0"
        )
    return tuple(value)
