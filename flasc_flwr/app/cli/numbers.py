"""Numbers on the command line: what is not allowed is refused, and what is, is said.

Click's own ranges let nan pass, which is never reached and never refused, and have no
upper end for numbers that only a slip of the hand can mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click import Context, Parameter, ParamType

from flasc_flwr.core.ranges import Range, integer
from flasc_flwr.core.ranges import number as finite

if TYPE_CHECKING:
    _Type = ParamType[int | float]
else:  # older versions of click have no such form
    _Type = ParamType


class Number(_Type):
    """The type of an option that is a number.

    Parameters
    ----------
    allowed : Range
        What it may be; its words are shown in the help and in errors.
    kind : type
        ``int`` or ``float``.
    """

    def __init__(self, allowed: Range, kind: type) -> None:
        self.name = allowed.allowed.partition(" ")[2]
        self._allowed = allowed
        self._kind = kind

    def convert(
        self, value: Any, param: Parameter | None, ctx: Context | None
    ) -> int | float:
        """Return the number that a word is."""
        try:
            number: int | float = self._allowed.require("it", self._kind(value))
        except ValueError:
            self.fail(f"must be {self._allowed.allowed}, got {value!r}", param, ctx)
        return number


def number(interval: str) -> Number:
    """Allow a number in an interval as mathematics writes it: ``(0, 1]``."""
    return Number(finite(interval), float)


def whole(least: int, most: int) -> Number:
    """Allow an integer in a range, both ends included."""
    at_least = integer(least).check

    def check(value: Any) -> int | None:
        found: int | None = at_least(value)
        return found if found is None or found <= most else None

    return Number(Range(f"an integer from {least} to {most}", check), int)


ACCURACY = number("[0, 1]")
CLIENTS = whole(1, 1_000_000)
PROCESSES = whole(1, 1000)
MEGABYTES = number("(0, 1e9]")
BANDWIDTH = number("[1e-6, 1e6]")
SECONDS = number("[0, 1e6]")
