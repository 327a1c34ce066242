"""Cells: what type a column of them has, and a value as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

import pyarrow as pa

_WHOLE = re.compile(r"-?[0-9]+\.0")


def text_of(value: Any) -> str | None:
    """Return a value as text, the same whatever type its file gives it; None if empty.

    ``1``, ``1.0`` and the texts ``"1"`` and ``"1.0"`` are ``"1"``; true and the texts
    ``"true"`` and ``"True"`` are ``"true"``. Other text only loses spaces at its ends,
    and has an accented letter as one character (Unicode's NFC): macOS writes two.

    Raises
    ------
    TypeError
        If it is neither text, number nor bool.
    """
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise TypeError(f"value must be text, a number or a bool, got {type(value)}")
    text = normalize("NFC", value.strip())
    if text.lower() in ("true", "false"):
        return text.lower()
    return text[:-2] if _WHOLE.fullmatch(text) else text or None


def type_of(values: Sequence[Any]) -> pa.DataType:
    """Return the Arrow type of a column of JSON values.

    Values of several types are text, as in a CSV file; with lists or objects among
    them they are bytes (JSON), which nothing here takes for text or labels.
    """
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeError):
        nested = any(isinstance(value, list | dict) for value in values)
        return pa.binary() if nested else pa.string()


def common_type(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """Return a type that values of both types have, as :func:`type_of`."""
    if one is None or one == other or pa.types.is_null(one):
        return other
    if pa.types.is_null(other):
        return one
    nested = [t for t in (one, other) if pa.types.is_nested(t)]
    numbers = all(
        pa.types.is_integer(t) or pa.types.is_floating(t) for t in (one, other)
    )
    if not (nested or numbers):
        return pa.string()
    schemas = [pa.schema([("cell", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")[0].type
    except pa.ArrowException:
        return pa.binary()


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return JSON values as a column of a type from `type_of` or `common_type`."""
    if pa.types.is_string(kind):
        values = [v if isinstance(v, str) else text_of(v) for v in values]
    if pa.types.is_binary(kind):
        values = [None if v is None else json.dumps(v).encode() for v in values]
    return pa.array(values, kind)
