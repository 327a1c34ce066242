"""Ranges: what a setting may be, as a check and in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Range:
    """What a setting may be.

    Attributes
    ----------
    allowed : str
        The range in words.
    check : Callable[[Any], Any]
        Returns a value in its proper type, or None if it is not allowed.
    """

    allowed: str
    check: Callable[[Any], Any]

    def require(self, name: str, value: Any) -> Any:
        """Return `value` in its proper type.

        Raises
        ------
        ValueError
            If it is not allowed; the message gives its name, what is allowed and the
            value.
        """
        checked = self.check(value)
        if checked is None:
            raise ValueError(self.refusal(name, value))
        return checked

    def refusal(self, name: str, value: Any) -> str:
        """Return the sentence that refuses `value`."""
        return f"{name} must be {self.allowed}, got {value!r}"


def choice(*names: str) -> Range:
    """Allow one of some names."""
    return Range(
        "one of " + ", ".join(repr(name) for name in names),
        lambda value: value if value in names else None,
    )


def integer(least: int) -> Range:
    """Allow an integer that is at least `least`."""

    def check(value: Any) -> int | None:
        if not isinstance(value, Integral) or isinstance(value, bool):
            return None
        return int(value) if int(value) >= least else None

    return Range(f"an integer >= {least}", check)


def number(interval: str) -> Range:
    """Allow a finite number in an interval as mathematics writes it: ``(0, 1]``."""
    low, high = (float(end) for end in interval[1:-1].split(","))

    def check(value: Any) -> float | None:
        if not isinstance(value, Real) or isinstance(value, bool):
            return None
        try:
            given = float(value)
        except OverflowError:  # an integer of hundreds of digits
            return None
        above = given > low or (interval[0] == "[" and given == low)
        below = given < high or (interval[-1] == "]" and given == high)
        return given if above and below and isfinite(given) else None

    return Range(f"a number in {interval}", check)


def fraction(interval: str) -> Range:
    """Allow a number in an interval, or text such as ``1/4``."""
    plain = number(interval)

    def check(value: Any) -> Any:
        if isinstance(value, str) and "/" in value:
            try:
                value = float(Fraction(value.replace(" ", "")))
            except (ValueError, ZeroDivisionError, OverflowError):
                return None
        return plain.check(value)

    return Range(f"{plain.allowed}, or a fraction such as '1/4'", check)


def switch() -> Range:
    """Allow true or false."""
    return Range("true or false", lambda v: v if isinstance(v, bool) else None)


def text() -> Range:
    """Allow any text."""
    return Range("text", lambda value: value if isinstance(value, str) else None)


def several(*names: str) -> Range:
    """Allow some of the names, separated by commas, each once; or none."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return None
        given = listed(value)
        known = set(given) <= set(names) and len(set(given)) == len(given)
        return value if known else None

    quoted = ", ".join(repr(name) for name in names)
    return Range(f"'' or some of {quoted}, separated by commas", check)


def listed(value: str) -> list[str]:
    """Return the names in a text that is separated by commas."""
    return [name.strip() for name in value.split(",")] if value.strip() else []


def either(word: str | float, range: Range) -> Range:
    """Allow one value beside a range: ``auto``, or 0 for none."""

    def check(value: Any) -> Any:
        if value == word and not isinstance(value, bool):
            return word
        return range.check(value)

    shown = repr(word) if isinstance(word, str) else f"{word:g}"
    return Range(f"{shown} or {range.allowed}", check)


def automatic(range: Range) -> Range:
    """Allow ``auto`` beside a range."""
    return either("auto", range)


def folder() -> Range:
    """Allow a folder's path that means the same in every process."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str) or not Path(value).expanduser().is_absolute():
            return None
        return value

    return Range("an absolute path, or one that begins with '~'", check)
