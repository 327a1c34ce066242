"""A run's files, checked as they are read: they may be damaged, or not from here.

What the readers of a run take from a file has the type and the range that they expect,
or the error names the file, the line and the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from flasc_flwr.app.reporting.file_fields import (
    ANSWER,
    BITS,
    ROW,
    SENT,
    SUMMARY,
    TENSOR,
    TENSORS,
    Fields,
)

Rows = list[dict[str, Any]]


def read_history(folder: Path) -> Rows:
    """Return a run's rows so far, without a line that is still being written.

    Raises
    ------
    ValueError
        If a line is not a row, or the rounds are not in order.
    """
    file = folder / "history.jsonl"
    rows = _lines(file, ROW)
    for number, (before, row) in enumerate(zip(rows, rows[1:], strict=False), start=2):
        if row["round"] <= before["round"]:
            raise _damaged(
                file,
                f"line {number} has a 'round' that must be above that of the line "
                f"before, {before['round']}, got {row['round']}",
            )
    return rows


def read_answers(folder: Path) -> Rows:
    """Return a run's answers to test prompts so far, as :func:`read_history`."""
    return _lines(folder / "answers.jsonl", ANSWER)


def read_summary(folder: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Return the content of a run's ``summary.json``; empty if there is none.

    Parameters
    ----------
    folder : Path
        The run's folder.
    needed : Iterable[str]
        Keys that it must have, beside those of every summary.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    file = folder / "summary.json"
    content = _object(file, SUMMARY)
    if content and (missing := [k for k in needed if content.get(k) is None]):
        raise _damaged(file, f"it has no {missing[0]!r}")
    return content


def read_traffic(folder: Path) -> Rows:
    """Return the rows of a run's ``traffic.json`` by column; none if there is none.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    file = folder / "traffic.json"
    if not file.is_file():
        return []
    content = _object(file, Fields({}))
    damaged = partial(_damaged, file)
    columns, rows = content.get("columns"), content.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise damaged("it must have 'columns' and 'rows', which are lists")
    if missing := [name for name in SENT.needed if name not in columns]:
        raise damaged(f"its 'columns' lack {missing[0]!r}")
    found = []
    for place, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise damaged(f"row {place} must be a list of {len(columns)} values")
        found.append(dict(zip(columns, row, strict=True)))
        if problem := SENT.problem(found[-1]):
            raise damaged(f"row {place} {problem}")
    return found


def read_tensors(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``tensors.json``; empty if there is none.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    file = folder / "tensors.json"
    if not file.is_file():
        return {}
    content = _object(file, TENSORS)
    for place, tensor in enumerate(content["tensors"]):
        if problem := TENSOR.problem(tensor):
            raise _damaged(file, f"tensor {place} {problem}")
    if problem := BITS.problem(content["bits_per_parameter"]):
        raise _damaged(file, f"its 'bits_per_parameter' {problem}")
    return content


def _lines(file: Path, fields: Fields) -> Rows:
    """Return the objects of a file that are complete, one a line."""
    if not file.is_file():
        return []
    rows = []
    # Only these end a line: a text may hold others that splitlines() knows.
    *lines, _unfinished = _text_of(file).split("\n")
    for number, line in enumerate(lines, start=1):
        row = _parsed(file, line, f"line {number}")
        if problem := fields.problem(row):
            raise _damaged(file, f"line {number} {problem}")
        rows.append(row)
    return rows


def _object(file: Path, fields: Fields) -> dict[str, Any]:
    """Return the object that is a file's content; empty if there is no file."""
    if not file.is_file():
        return {}
    content = _parsed(file, _text_of(file), "it")
    if problem := fields.problem(content):
        raise _damaged(file, f"it {problem}")
    return content


def _text_of(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(file, str(error)) from None


def _parsed(file: Path, text: str, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"{what} is not JSON: {error}") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise _damaged(file, f"{what} must be a JSON object, got a {kind}")
    return content


def _damaged(file: Path, problem: str) -> ValueError:
    return ValueError(f"{file.name} in {str(file.parent)!r} is damaged: {problem}")
