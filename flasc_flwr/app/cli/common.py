"""Shared by the commands: options, error messages, and reading ``--run-config``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flasc_flwr.app.cli.numbers import ACCURACY
from flasc_flwr.app.cli.words import repeated_key, require_all_read

RunConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run-config",
        "-c",
        metavar="SETTINGS",
        help="Settings that override the defaults, such as \"method='dense' seed=1\", "
        "or the path of a TOML file. May be repeated.",
        show_default=False,
    ),
]

SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SETTINGS]...",
        help="As for --run-config: such as \"method='dense' seed=1\", or the path of a "
        "TOML file.",
        show_default=False,
    ),
]

RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, or folders that contain them, such as a sweep's.",
        show_default=False,
    ),
]

AppOption = Annotated[Path, typer.Option(help="Folder of the Flower app.")]

TargetOption = Annotated[
    float | None,
    typer.Option(
        click_type=ACCURACY,
        help="Also show the MB sent until the run first reached this test accuracy, "
        "such as 0.8.",
        show_default=False,
    ),
]


def fail(reason: str, status: int = 1) -> NoReturn:
    """Print an error in one line, and exit."""
    typer.echo(f"Error: {one_line(reason)}", err=True)
    raise typer.Exit(status)


def one_line(text: str) -> str:
    """Return text as one line of printable characters."""
    lines = [" ".join(printable(line).split()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line).replace(":; ", ": ")


def printable(text: str) -> str:
    """Return a line without colours, control characters and trailing space.

    Logs hold text that clients sent: escape codes in it would reach the terminal.
    """
    from click import unstyle

    shown = (char if char.isprintable() else " " for char in unstyle(text))
    return "".join(shown).rstrip()


@contextmanager
def user_errors() -> Iterator[None]:
    """Report errors that the user can fix in one line, with exit status 1."""
    from flasc_flwr.core.printable import with_notes

    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: pip install 'flasc-flwr[app]'")
    except (ValueError, OSError, ImportError) as error:
        fail(with_notes(error))


def parsed(overrides: list[str] | None, option: str = "--run-config") -> dict[str, Any]:
    """Return the settings that ``--run-config``, or another option, gives.

    Raises
    ------
    ValueError
        If the text is not KEY=VALUE pairs, Flower would drop a part of it, or the TOML
        file cannot be read.
    """
    from click import ClickException

    from flasc_flwr.flower.compat import parse_config_args

    given = " ".join(overrides or [])
    must_be = (
        f"{option} must be KEY=VALUE pairs (numbers, true, false, or quoted text), "
        "such as \"seed=1 method='dense'\", or the path of a .toml file"
    )
    try:
        settings: dict[str, Any] = parse_config_args(overrides)
    except ClickException:
        if twice := repeated_key(overrides or []):
            raise ValueError(
                f"{option} must have each key once, got {twice!r} twice"
            ) from None
        raise ValueError(f"{must_be}, got {given!r}") from None
    except ValueError as error:
        lists = "; write a list as text, such as class-names='cat,dog'"
        file = f" {given.strip()!r}" if given.strip().endswith(".toml") else ""
        raise ValueError(
            f"{option}{file}: {error}{lists if 'of type' in str(error) else ''}"
        ) from None
    if given.strip() and not settings:
        raise ValueError(f"{must_be}, got {given!r}")
    for text in overrides or []:
        require_all_read(option, text)
    return settings
