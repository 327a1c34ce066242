"""What the commands share: options, and how they say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

RunConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--run-config",
        "-c",
        metavar="SETTINGS",
        help="Settings such as \"method='dense' seed=1\", or the path of a profile.",
    ),
]

RunsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run folders, or folders with run folders below, such as a sweep's.",
        show_default=False,
    ),
]

TargetOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Also tell the MB until this test accuracy was first reached, such as "
        "0.8.",
        show_default=False,
    ),
]


def fail(reason: str, status: int = 1) -> NoReturn:
    """Say in one line what is wrong, and end."""
    typer.echo(f"Error: {one_line(reason)}", err=True)
    raise typer.Exit(status)


def one_line(text: str) -> str:
    """Return a text of several lines as one."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line).replace(":; ", ": ")


@contextmanager
def told() -> Iterator[None]:
    """End with one line where something is wrong that a user can put right."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: pip install 'flasc-flwr[app]' brings it")
    except (ValueError, OSError) as error:
        fail(str(error))


def parsed(overrides: list[str] | None) -> dict[str, Any]:
    """Return settings of the run config from ``--run-config``.

    Raises
    ------
    ValueError
        If they are no settings, or the profile cannot be read.
    """
    from click import ClickException

    from flasc_flwr.flower.compat import parse_config_args

    try:
        settings: dict[str, Any] = parse_config_args(overrides)
    except ClickException:
        raise ValueError(
            f"--run-config: {' '.join(overrides or [])!r} cannot be read: allowed is "
            "KEY=VALUE with numbers, true, false, or text in quotes, such as "
            "\"seed=1 method='dense'\""
        ) from None
    except ValueError as error:
        raise ValueError(f"--run-config: {error}") from None
    if overrides and not settings and any(words.strip() for words in overrides):
        raise ValueError(
            f"--run-config: {' '.join(overrides)!r} has no key=value, and is no path "
            "that ends in .toml"
        )
    return settings
