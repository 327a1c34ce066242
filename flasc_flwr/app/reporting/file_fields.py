"""What the files of a run must hold, where a reader relies on it.

Fields of later versions are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flasc_flwr.core.printable import printable
from flasc_flwr.core.ranges import Range, choice, integer, number, switch, text


def _list(what: str, inner: type) -> Range:
    """Allow a list of values of one type."""

    def check(value: Any) -> Any:
        fits = isinstance(value, list) and all(isinstance(v, inner) for v in value)
        return value if fits else None

    return Range(f"a list of {what}", check)


_OBJECT = Range("an object", lambda value: value if isinstance(value, dict) else None)


_COUNT, _ANY, _SIZE = integer(0), number("(-inf, inf)"), number("[0, inf)")
_BYTES = {f"message_bytes_{way}": _COUNT for way in ("down", "up")}
_MEASURED = dict.fromkeys(("accuracy", "loss", "perplexity", "epsilon", "delta"), _ANY)
_SCORED = choice("exact_match", "rouge_l")


@dataclass(frozen=True)
class Fields:
    """What an object of a file must have, and what it may have.

    Attributes
    ----------
    needed : Mapping[str, Range]
        Fields that every version has written.
    known : Mapping[str, Range]
        Fields that may be missing, or null.
    """

    needed: Mapping[str, Range]
    known: Mapping[str, Range] = field(default_factory=dict)

    def problem(self, content: Mapping[str, Any]) -> str | None:
        """Return what is wrong with an object's fields; None if nothing is."""
        for key, allowed in self.needed.items():
            if key not in content:
                return f"has no {key!r}"
            if allowed.check(content[key]) is None:
                return _refusal(key, allowed, content[key])
        for key, allowed in self.known.items():
            value = content.get(key)
            if value is not None and allowed.check(value) is None:
                return _refusal(key, allowed, value)
        return None


def _refusal(key: str, allowed: Range, value: Any) -> str:
    return f"has a {key!r} that must be {allowed.allowed}, got {_short(value)}"


def _short(value: Any) -> str:
    return printable(repr(value), 60)


ROW = Fields(
    {"round": _COUNT, **_BYTES},
    {
        **_MEASURED,
        **dict.fromkeys(("replies", "dead_modules", "dense_float32_bytes"), _COUNT),
        **{
            f"seconds{phase}": _SIZE
            for phase in ("", "_select", "_clients", "_aggregate", "_evaluate")
        },
        "failures": _list("objects", dict),
        "skipped": switch(),
    },
)
"""A row of ``history.jsonl``."""

SUMMARY = Fields(
    {"ended": text()},
    {
        **_MEASURED,
        **_BYTES,
        **dict.fromkeys(
            ("rounds", "adapter_parameters", "dense_float32_bytes"), _COUNT
        ),
        **{
            f"{kind}_bytes_{way}": _COUNT
            for kind in ("payload", "wire")
            for way in ("down", "up")
        },
        "reduction_vs_dense_float32": _SIZE,
        "seconds": _SIZE,
        "warnings": _list("texts", str),
    },
)
"""``summary.json``."""

SENT = Fields(
    {
        "round": _COUNT,
        "client": text(),
        "direction": choice("down", "up"),
        "payload": _COUNT,
        "message": _COUNT,
    }
)
"""A row of ``traffic.json``, by column."""

TENSORS = Fields(
    {
        "tensors": _list("objects", dict),
        "bits_per_parameter": _OBJECT,
    }
)
"""``tensors.json``."""

TENSOR = Fields(
    {"name": text(), "entries": _COUNT},
    dict.fromkeys(("kept_down", "kept_up", "bits_down"), _SIZE),
)
"""One of its tensors."""

BITS = Fields({}, dict.fromkeys(("down", "up"), _SIZE))
"""Its ``bits_per_parameter``."""

ANSWER = Fields(
    {
        "round": _COUNT,
        "example": _COUNT,
        "measure": _SCORED,
        "score": number("[0, 1]"),
        **dict.fromkeys(("prompt", "reference", "answer", "domain"), text()),
    }
)
"""A line of ``answers.jsonl``."""
