"""Errors in data: they may leave a device, so they hold no value of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class DataError(ValueError):
    """Data that cannot be used.

    Flower sends the text of a device's exception to the server, which logs it. So the
    text says which key, which row and what kind of thing is there. It holds no value,
    no name of a column or class that only the device's file has, and no name of an
    image file. What helps only the owner of the data is a note: tracebacks show notes,
    and Flower does not send them.

    Parameters
    ----------
    text : str
        What is wrong, without values.
    note : str
        More, for whoever reads the log of the machine that has the data.
    """

    def __init__(self, text: str, note: str = "") -> None:
        super().__init__(text)
        if note:
            self.add_note(note)


def not_utf8(file: Path) -> DataError:
    """Return the error for a text file that is not UTF-8, with its first such line."""
    good = 0
    with file.open("rb") as stream, suppress(UnicodeDecodeError):
        for line in stream:
            line.decode()
            good += 1
    return DataError(
        f"data file {file.name!r} must be UTF-8 text, got other bytes in line "
        f"{good + 1}"
    )


@contextmanager
def without_values() -> Iterator[None]:
    """Raise a DataError for what a library raises, which may quote the data."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the data of this node cannot be used: {type(error).__name__}", str(error)
        ) from error


def cell(row: int, key: str, column: str) -> str:
    """Return the words for the cell of a row; `key` is the column's run-config key."""
    return f"row {row} (rows count from 0) of {key} {column!r}"


def is_empty(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or text of nothing but spaces."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def kind_of(value: Any) -> str:
    """Return what kind of thing a cell holds, in words and without its value."""
    if is_empty(value):
        return "an empty cell"
    for types, words in _KINDS:
        if isinstance(value, types):
            return words
    return f"a value of type {type(value).__name__}"


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a decimal number"),
    (str, "text"),
    (bytes, "bytes"),
    (list, "a list"),
    (dict, "an object"),
)
"""The first that fits; a bool is also an int."""
