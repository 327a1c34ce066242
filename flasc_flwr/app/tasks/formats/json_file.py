"""JSON files: one object a line, or one array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from flasc_flwr.app.tasks.data_errors import DataError, not_utf8
from flasc_flwr.app.tasks.formats.cells import column_of, common_type, type_of

Row = dict[str, Any]

_SCANNED = 10_000
"""Rows whose types are found at once."""


def schema(file: Path) -> pa.Schema:
    """Return the columns of a file, each with a type that fits all its values.

    Raises
    ------
    DataError
        If a line is not a JSON object.
    """
    types: dict[str, pa.DataType] = {}
    for rows in _parts(_rows(file), _SCANNED):
        for name in dict.fromkeys(name for row in rows for name in row):
            found = type_of([row.get(name) for row in rows])
            types[name] = common_type(types.get(name), found)
    return pa.schema(list(types.items()))


def tables(file: Path, rows_at_once: int, wanted: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a file; a value that a row does not have is empty.

    Raises
    ------
    DataError
        If a line is not a JSON object, or a text is not Unicode.
    """
    done = 0
    for rows in _parts(_rows(file), rows_at_once):
        columns = []
        for field in wanted:
            values = [row.get(field.name) for row in rows]
            try:
                columns.append(column_of(values, field.type))
            except UnicodeError as error:
                bad = next(n for n, value in enumerate(values) if _is_broken(value))
                raise DataError(
                    f"row {done + bad} of data file {file.name!r} must hold Unicode "
                    "text, got half of a surrogate pair"
                ) from error
        yield pa.table(columns, schema=wanted)
        done += len(rows)


def _is_broken(value: Any) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False))


def _parts(rows: Iterator[Row], count: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == count:
            yield part
            part = []
    if part:
        yield part


def _rows(file: Path) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from _parsed(stream, file)
    except UnicodeDecodeError:
        raise not_utf8(file) from None


def _parsed(stream: Any, file: Path) -> Iterator[Row]:
    first = True
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            yield from _array(line + stream.read(), file)
            return
        first = False
        where = f"line {number} of data file {file.name!r}"
        yield _object(_json(line, where), where)


def _array(text: str, file: Path) -> Iterator[Row]:
    for number, row in enumerate(_json(text, f"data file {file.name!r}")):
        yield _object(row, f"row {number} of data file {file.name!r}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise DataError(
            f"{where} must be JSON, one object a line or one array of objects, got: "
            f"{reason}"
        ) from None


def _distinct(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("the same name twice in an object", "", 0)
    return found


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f'{where} must be an object such as {{"text": "good", "label": 1}}, '
            f"got {type(row).__name__}"
        )
    return row
