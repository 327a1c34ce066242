"""A PEFT config in a file, or as JSON text, read as plain values."""

from __future__ import annotations

import json
import os
import tomllib
from math import isfinite
from pathlib import Path
from typing import Any

from flasc_flwr.core.printable import printable, why

_MOST_BYTES = 1 << 20
"""A longer file is not a PEFT config."""

_MOST_LEVELS = 16
"""Lists and tables in each other; more are not a PEFT config."""


def name_of(given: str) -> str:
    """Return how errors call a PEFT config: its path, or ``JSON text``."""
    return "JSON text" if _is_text(given) else repr(printable(given, 200))


def read(given: str) -> dict[str, Any]:
    """Return the fields of a PEFT config.

    Parameters
    ----------
    given : str
        The absolute path of a ``.json`` or ``.toml`` file, such as an
        ``adapter_config.json`` that PEFT saved; or JSON text, which begins with ``{``.

    Raises
    ------
    ValueError
        If it cannot be read, or is not a table of fields.
    """
    if _is_text(given):
        return _table(given, "JSON", given)
    path = _expanded(given)
    if not path.is_absolute() or path.suffix not in (".json", ".toml"):
        raise ValueError(
            "peft-config must be the absolute path of a .json or .toml file, or JSON "
            f"text, got {name_of(given)}"
        )
    if not _is_file(path):
        raise _not_there(given)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"peft-config must have at most {_MOST_BYTES} bytes, got {name_of(given)}"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # The text of the error may quote the file.
        raise ValueError(
            f"peft-config must be a readable text file, got {name_of(given)}: "
            f"{type(error).__name__}"
        ) from error
    return _table(text, path.suffix[1:].upper(), given)


def _expanded(given: str) -> Path:
    try:
        return Path(os.path.expandvars(given)).expanduser()
    except RuntimeError as error:  # "~name" of nobody
        raise _not_there(given) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name, or a folder that may not be read
        return False


def _not_there(given: str) -> ValueError:
    return ValueError(f"peft-config must be a file that is there, got {name_of(given)}")


def _is_text(given: str) -> bool:
    return given.lstrip().startswith("{")


def _table(text: str, form: str, given: str) -> dict[str, Any]:
    try:
        table = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"peft-config {name_of(given)} is not valid {form}: {why(error)}"
        ) from error
    if not isinstance(table, dict):
        raise ValueError(
            f"peft-config {name_of(given)} must be a table of fields, got "
            f"{type(table).__name__}"
        )
    _require_plain(table, f"peft-config {name_of(given)}")
    return table


def _require_plain(value: Any, where: str, level: int = 0) -> None:
    """Check that a value, or nested values, can be of a PEFT config, and hashed.

    Raises
    ------
    ValueError
        If not. It quotes numbers and types only.
    """
    if level > _MOST_LEVELS:
        raise ValueError(f"{where} must have at most {_MOST_LEVELS} nested levels")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _require_plain(inner, where, level + 1)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{where} must have finite numbers, got {value}")
    elif isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{where} must have integers of at most 64 bits")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{where} must consist of texts, numbers, booleans, lists and tables, got "
            f"{type(value).__name__}"
        )
