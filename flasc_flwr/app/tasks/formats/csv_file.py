"""CSV files: every cell is text, only an empty cell is empty, widths are checked."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from flasc_flwr.app.tasks.data_errors import DataError, not_utf8

_LONGEST = 2**31 - 1
"""Longest field, in characters; the default of Python's reader is 131,072."""


def schema(file: Path) -> pa.Schema:
    """Return the columns of a file, all of text. A column without a name is left out.

    Raises
    ------
    DataError
        If the file has no header, or two columns have the same name.
    """
    names = [name for name in _header(_lines(file)) if name]
    if not names:
        raise DataError(
            f"data file {file.name!r} must have a header, got an empty file"
        )
    twice = [n for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise DataError(
            f"data file {file.name!r} must have columns of different names, got the "
            "same name twice",
            f"the columns are {', '.join(names)}",
        )
    return pa.schema([(name, pa.string()) for name in names])


def tables(file: Path, rows_at_once: int) -> Iterator[pa.Table]:
    """Yield the rows of a file.

    Raises
    ------
    DataError
        If a line is not CSV, or has more or fewer fields than the header.
    """
    lines = _lines(file)
    header = _header(lines)
    cells: list[list[str | None]] = [[] for _ in header]
    for number, fields in lines:
        if len(fields) != len(header):
            raise DataError(
                f"line {number} of data file {file.name!r} must have {len(header)} "
                f"fields as its header, got {len(fields)}: put fields that have commas "
                "in double quotes"
            )
        for column, field in zip(cells, fields, strict=True):
            column.append(field or None)
        if len(cells[0]) == rows_at_once:
            yield _table(header, cells)
            cells = [[] for _ in header]
    if cells and cells[0]:
        yield _table(header, cells)


def _table(header: list[str], cells: list[list[str | None]]) -> pa.Table:
    columns = zip(header, cells, strict=True)
    return pa.table({n: pa.array(c, pa.string()) for n, c in columns if n})


def _header(lines: Iterator[tuple[int, list[str]]]) -> list[str]:
    _, names = next(lines, (1, []))
    return [name.strip() for name in names]


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield where each row begins, and its fields; empty lines are left out."""
    csv.field_size_limit(_LONGEST)
    begin = 1
    # Programs on Windows begin a file with a byte order mark: "utf-8-sig" drops it.
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            for fields in reader:
                if fields:
                    yield begin, fields
                begin = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"the row that begins in line {begin} of data file {file.name!r} must "
                f"have its double quotes in pairs, got: {error}"
            ) from None
        except UnicodeDecodeError:
            raise not_utf8(file) from None
