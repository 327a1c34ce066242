"""Errors of an app that reads private data: what of their text may leave the device.

Flower sends the text of an exception to the server. Libraries quote what they cannot
read: a row of a table, a label, the path of a file. Sentences that this project raises
itself do not (a test walks through them all).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dis import opmap
from types import FrameType, TracebackType
from typing import NoReturn

from flasc_flwr.core.printable import printable

_SHORTEST = 3
"""Shorter texts are not replaced: they are parts of ordinary words."""

_WITHOUT_VALUES = (
    "MemoryError",
    "OutOfMemoryError",  # torch's, which this folder does not import
    "ImportError",
    "ModuleNotFoundError",
)
"""Exceptions of libraries whose text is about the machine, not the data."""


@contextmanager
def app_errors(
    package: str, private: Callable[[], Iterable[str]] = tuple
) -> Iterator[None]:
    """Raise a ValueError for any exception; the device's log has the original.

    Parameters
    ----------
    package : str
        Package whose own sentences may leave. Of all other exceptions, also of those
        that Python itself raises in it, only kind and place are said.
    private : Callable[[], Iterable[str]]
        Returns texts that do not leave in any sentence, such as the path of the data.
    """
    try:
        yield
    except Exception as error:
        _raise(error, package, private())


def _raise(error: Exception, package: str, private: Iterable[str]) -> NoReturn:
    kind = type(error).__name__
    if _is_own_sentence(error, package) or kind in _WITHOUT_VALUES:
        said = printable(_without(str(error), private)) or kind
        said = said if isinstance(error, ValueError) else f"{kind}: {said}"
    else:
        said = f"{kind} in {_place(error, package)}: see the log of this device"
    raise ValueError(said) from error


def _is_own_sentence(error: Exception, package: str) -> bool:
    """Return whether a ``raise`` statement of the package raised an exception.

    Python itself quotes values: ``KeyError('Anna')`` of a dict, or "invalid literal for
    int(): 'Anna'".
    """
    last = _last(error.__traceback__)
    if last is None or not _is_in(last.tb_frame, package):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]


def _last(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _is_in(frame: FrameType, package: str) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module == package or module.startswith(f"{package}.")


def _place(error: Exception, package: str) -> str:
    """Return the innermost function of the package on the way to an exception."""
    place, traceback = "the app", error.__traceback__
    traceback = traceback.tb_next if traceback else None  # the first is `app_errors`
    while traceback is not None:
        frame = traceback.tb_frame
        if _is_in(frame, package):
            name = frame.f_globals["__name__"]
            place = f"{name}.{frame.f_code.co_name}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _without(text: str, private: Iterable[str]) -> str:
    """Return a text in which private ones are replaced, the longest first."""
    for one in sorted(set(private), key=len, reverse=True):
        if len(one) >= _SHORTEST:
            text = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", "...", text)
    return text
