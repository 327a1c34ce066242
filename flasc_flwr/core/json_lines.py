"""Rows as JSON that every reader accepts: NaN and infinity are not in the standard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def json_safe(value: Any) -> Any:
    """Return a value, or nested values, with null for numbers that are not finite."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_safe(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(one) for one in value]
    return value


def as_json(
    value: Any,
    indent: int | None = None,
    *,
    sort_keys: bool = False,
    compact: bool = False,
) -> str:
    """Return a value as standard JSON, with null for numbers that are not finite.

    All JSON that is written goes through here.

    Parameters
    ----------
    value : Any
        Nested mappings, lists, texts, numbers, booleans and None.
    indent : int, optional
        Spaces of each level; by default all is on one line.
    sort_keys : bool
        Whether keys are in the order of the alphabet.
    compact : bool
        Whether there is no space after commas and colons.
    """
    return json.dumps(
        json_safe(value),
        indent=indent,
        sort_keys=sort_keys,
        separators=(",", ":") if compact else None,
        allow_nan=False,
    )
