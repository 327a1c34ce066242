"""Lists of names in a run config, whose values cannot be lists."""

from __future__ import annotations

import json
from typing import Any

from flasc_flwr.core.ranges import Range


def names_of(text: str) -> list[str]:
    """Return the names in ``a,b``, or in ``["a", "b"]`` as JSON; none in ``""``.

    Raises
    ------
    ValueError
        If it is neither, or a name is empty or there twice.
    """
    names = text.split(",") if text.strip() else []
    if text.lstrip().startswith("["):
        names = json.loads(text)
        if not all(isinstance(name, str) for name in names):
            raise ValueError("names must be text")
    names = [name.strip() for name in names]
    if not all(names) or len({*names}) < len(names):
        raise ValueError("names must be different and not empty")
    return names


def names() -> Range:
    """Allow different names, separated by commas or as JSON text; or none."""

    def check(value: Any) -> str | None:
        try:
            names_of(value)
        except (ValueError, TypeError, AttributeError):
            return None
        return str(value)

    return Range(
        'different names separated by commas, or JSON text such as ["a, b", "c"] where '
        "names have commas",
        check,
    )
