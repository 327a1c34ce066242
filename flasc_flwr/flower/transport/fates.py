"""How the arrays of each record travel, as one line of the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from logging import INFO
from math import prod

from flwr.app import ArrayRecord, Message, MessageType

from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log, records_of
from flasc_flwr.flower.transport.rule import is_named, why_whole
from flasc_flwr.flower.transport.transport_settings import TransportSettings
from flasc_flwr.flower.wire import category

_MOST_NAMES = 3
_LONGEST_NAME = 60


def fate(key: str, record: ArrayRecord, why_whole: Mapping[str, str], how: str) -> str:
    """Return how the arrays of a record travel, and why.

    Parameters
    ----------
    key : str
        Key of the record in its messages.
    record : ArrayRecord
        The record.
    why_whole : Mapping[str, str]
        For each array why it travels whole; empty text where it is in the payload.
    how : str
        How arrays in the payload travel: ``sparse``, ``rounded``, or ``""`` if nothing
        is lost and all arrays travel as they are.
    """
    shown = repr(printable(key, _LONGEST_NAME))
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in why_whole.items():
        by_reason[reason].append(name)
    chosen = by_reason.pop("", [])
    whole = "; ".join(
        f"{len(names)} {reason} ({listed(names)})"
        for reason, names in by_reason.items()
    )
    if chosen and not how:
        return f"Record {shown}: untouched, as nothing may be lost"
    if not chosen:
        return f"Record {shown}: untouched; {whole or 'no arrays'}"
    sizes = {name: prod(array.shape) for name, array in record.items()}
    share = sum(sizes[name] for name in chosen) / sum(sizes.values())
    line = f"Record {shown}: {len(chosen)} of {len(record)} arrays {how}"
    line += f" ({share:.1%} of the entries)"
    return f"{line}; whole: {whole}" if whole else line


def listed(names: Iterable[str], most: int = _MOST_NAMES) -> str:
    """Return names as text, printable; the first few, if there are many."""
    every = list(names)
    shown = [printable(name, _LONGEST_NAME) for name in every[:most]]
    return ", ".join(shown if len(every) <= most else [*shown, "..."])


def require_known(
    key: str, patterns: Iterable[str], names: Iterable[str], what: str = "arrays"
) -> None:
    """Check that each name or shell pattern of a setting fits something that is sent.

    Parameters
    ----------
    key : str
        The setting.
    patterns : Iterable[str]
        Its names and patterns.
    names : Iterable[str]
        The names of what is sent.
    what : str
        What that is.

    Raises
    ------
    ValueError
        If one fits nothing that is sent. The message names the most similar ones first.
    """
    known = list(dict.fromkeys(names))
    for pattern in patterns:
        if not any(is_named(name, [pattern]) for name in known):
            similar = get_close_matches(pattern, known, n=3, cutoff=0.5)
            others = [name for name in known if name not in similar]
            raise ValueError(
                f"{key} must name {what} that are sent, got "
                f"{printable(pattern, _LONGEST_NAME)!r}; there are {len(known)}: "
                f"{listed([*similar, *others], 10)}"
            )


class Fates:
    """Logs how the arrays of each record travel, when it is first sent.

    Parameters
    ----------
    settings : TransportSettings
        How arrays are sent.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._logged: set[str] = set()
        self._checked = False

    def log(self, messages: Sequence[Message]) -> None:
        """Log how the arrays of some messages travel, for each new record.

        Raises
        ------
        ValueError
            If ``whole`` or ``sparse`` names no array of the first messages, or
            ``replies`` none of their ArrayRecords.
        """
        contents = {id(m.content): m.content for m in messages if _is_encoded(m)}
        records = [
            item
            for content in contents.values()
            for item in records_of(content, ArrayRecord).items()
        ]
        if records and not self._checked:
            self._checked = True
            names = [name for _, record in records for name in record]
            require_known("whole", self._settings.whole, names)
            require_known("sparse", self._settings.sparse, names)
            if not isinstance(self._settings.replies, str):
                keys = [key for key, _ in records]
                require_known("replies", self._settings.replies, keys, "ArrayRecords")
        for key, record in records:
            if key not in self._logged:
                self._logged.add(key)
                why = why_whole(record, self._settings.whole, self._settings.sparse)
                log(INFO, "\t%s", fate(key, record, why, self._settings.how))


def _is_encoded(message: Message) -> bool:
    asked = category(message.metadata.message_type)
    return asked in (MessageType.TRAIN, MessageType.EVALUATE)
