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
            help="A run's folder, or a folder with one run below it.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path, typer.Option(help="The folder to make; it may not hold anything yet.")
    ],
    round: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The adapter of this round rather than the last: export-every in the "
            "run config says which there are.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Copy a run's adapter, in PEFT's format, into a folder of its own.

    RUN is a run folder, or a folder with one run folder below it.
    """
    from flasc_flwr.app.cli.common import told

    with told():
        source = _adapter(the_run(run), round)
        target = to.expanduser().absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(
                f"{str(target)!r} exists already and is not empty: choose another "
                "folder, or remove it"
            )
        shutil.copytree(source, target, dirs_exist_ok=True)
    typer.echo(f"{source} is now in {target}")


def the_run(path: Path) -> Path:
    """Return the one run folder that a path is, or has below it.

    Raises
    ------
    ValueError
        If there is none or more than one; it names them.
    """
    from flasc_flwr.app.reporting.runs import find_runs

    found = find_runs([path])
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(path.absolute())) for folder in found)
        raise ValueError(
            f"{str(path)!r} has {len(found)} runs, and one is wanted: {names}"
        )
    return found[0]


def _adapter(run: Path, round: int | None) -> Path:
    from flasc_flwr.app.reporting.runs import adapter_of

    folder = adapter_of(run, round)
    if folder.is_dir():
        return folder
    rounds = sorted(
        int(match[1])
        for path in run.iterdir()
        if (match := _OF_ROUND.fullmatch(path.name))
    )
    there = [f"of round {number}" for number in rounds]
    if (run / "adapter").is_dir():
        there.append("the last one (without --round)")
    wanted = "no adapter" if round is None else f"no adapter of round {round}"
    raise ValueError(
        f"{str(run)!r} has {wanted}; it has "
        + (", ".join(there) if there else "none at all: it has not ended")
    )
