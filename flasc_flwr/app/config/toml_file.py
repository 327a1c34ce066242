"""TOML files: an error names the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # its text, or that it is not UTF-8
        raise ValueError(f"{str(path)!r} is not a TOML file: {error}") from None


def read_app(folder: Path) -> dict[str, Any]:
    """Return the table ``[tool.flwr.app]`` of a Flower app's ``pyproject.toml``.

    Raises
    ------
    ValueError
        If the folder is not a Flower app.
    """
    project = folder / "pyproject.toml"
    try:
        app = read_toml(project)["tool"]["flwr"]["app"]
        tables = [app.get(key, {}) for key in ("config", "components")]
    except (OSError, KeyError, TypeError, AttributeError):
        tables = [None]
    if not all(isinstance(table, dict) for table in tables):
        raise ValueError(
            f"{str(folder)!r} is not a Flower app: it needs a pyproject.toml with "
            "[tool.flwr.app], and in it the tables 'config' and 'components'"
        )
    found: dict[str, Any] = app
    return found
