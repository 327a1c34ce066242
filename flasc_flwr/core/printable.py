"""Text from outside: printable, on one line and short, whatever was sent."""

from __future__ import annotations

_CUT = "..."
_WINDOW = 10_000
"""Characters that are looked at: a text of megabytes costs no more than a short one."""


def printable(text: object, limit: int = 300) -> str:
    """Return text that is safe to log, store and show.

    Line breaks, escape codes, controls of the writing direction and all else that
    :meth:`str.isprintable` refuses become spaces, and runs of spaces become one. Only
    the first 10,000 characters are read.

    Parameters
    ----------
    text : object
        What came from outside.
    limit : int
        Longest result, in characters. A longer one is cut and ends in ``...``.
    """
    whole = str(text)
    seen = whole[:_WINDOW]
    shown = " ".join("".join(c if c.isprintable() else " " for c in seen).split())
    if len(shown) <= limit and len(whole) <= _WINDOW:
        return shown
    return shown[: limit - len(_CUT)] + _CUT


def printable_lines(text: str, limit: int = _WINDOW) -> str:
    """Return a text of several lines that is safe to show.

    Line breaks and spaces stay, a tab becomes four spaces, and all else that
    :meth:`str.isprintable` refuses becomes one space: escape codes, controls of the
    writing direction.

    Parameters
    ----------
    text : str
        What came from outside.
    limit : int
        Longest result, in characters. A longer one is cut and ends in ``...``.
    """
    seen = text[: limit + 1].replace("\r\n", "\n").replace("\t", "    ")
    shown = "".join(c if c.isprintable() or c == "\n" else " " for c in seen)
    return shown if len(shown) <= limit else shown[: limit - len(_CUT)] + _CUT


def why(error: Exception) -> str:
    """Return what an exception says, printable; its type too if it is unexpected."""
    kind = type(error).__name__
    if isinstance(error, ValueError):
        return printable(error) or kind
    return printable(f"{kind}: {error}")


def with_notes(error: BaseException) -> str:
    """Return what an exception says, with its notes: for who reads it on this machine.

    Errors in data put into notes what must not leave a device, such as names of files
    and columns.
    """
    return "; ".join([str(error), *getattr(error, "__notes__", [])])
