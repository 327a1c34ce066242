"""``flasc-flwr export``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

_OF_ROUND = re.compile(r"adapter-round-(\d+)")


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or a folder that contains one.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(
            help="Output folder. It must not exist or be empty.", show_default=False
        ),
    ],
    round: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Export the adapter of this round instead of the last one. Rounds are "
            "saved by export-every in the run config.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Copy a run's adapter, in PEFT's format, to another folder.

    RUN is a run folder, or a folder that contains one.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        source = _adapter(the_run(run), round)
        target = to.expanduser().absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"--to must be a new or empty folder, got {str(target)!r}")
        shutil.copytree(source, target, dirs_exist_ok=True)
    typer.echo(f"Copied {source} to {target}")


def the_run(path: Path) -> Path:
    """Return `path` if it is a run folder, else the one run folder below it.

    Raises
    ------
    ValueError
        If there is none or more than one; the message lists them.
    """
    from flasc_flwr.app.reporting.runs import find_runs

    found = find_runs([path])
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(path.absolute())) for folder in found)
        raise ValueError(
            f"RUN must be one run, got {str(path)!r} with {len(found)} runs: {names}"
        )
    return found[0]


def _adapter(run: Path, round: int | None) -> Path:
    """Return the folder of a run's adapter.

    Raises
    ------
    ValueError
        If it does not exist; the message lists the adapters that do.
    """
    from flasc_flwr.app.reporting.runs import adapter_of

    folder = adapter_of(run, round)
    if folder.is_dir():
        return folder
    rounds = sorted(
        int(match[1])
        for path in run.iterdir()
        if (match := _OF_ROUND.fullmatch(path.name))
    )
    saved = [f"round {number}" for number in rounds]
    if (run / "adapter").is_dir():
        saved.append("the last one (omit --round)")
    missing = "no adapter" if round is None else f"no adapter of round {round}"
    raise ValueError(
        f"{str(run)!r} has {missing}; available: "
        + (", ".join(saved) or "none (the run has not finished)")
    )
