"""``flasc-flwr sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flasc_flwr.app.cli.common import AppOption, RunConfigOption, TargetOption
from flasc_flwr.app.cli.numbers import CLIENTS, PROCESSES

if TYPE_CHECKING:
    from flasc_flwr.app.runs.jobs import Job


def _values(key: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="V1,V2",
        help=f"Values of {key}, separated by commas.",
        show_default=False,
    )
    return option


def sweep(
    into: Annotated[
        Path,
        typer.Option(
            help="Output directory. Rerun the same command to resume.",
            show_default=False,
        ),
    ],
    method: Annotated[str | None, _values("method")] = None,
    download_density: Annotated[str | None, _values("download-density")] = None,
    upload_density: Annotated[str | None, _values("upload-density")] = None,
    lora_rank: Annotated[str | None, _values("lora-rank")] = None,
    seed: Annotated[str | None, _values("seed")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2",
            help="Values of any other key of the run config. May be repeated.",
            show_default=False,
        ),
    ] = None,
    run_config: RunConfigOption = None,
    clients: Annotated[
        int, typer.Option(click_type=CLIENTS, help="Number of simulated clients.")
    ] = 20,
    at_once: Annotated[
        int,
        typer.Option(
            click_type=PROCESSES, help="Number of runs at a time, each on one core."
        ),
    ] = 1,
    app: AppOption = Path("."),
    target: TargetOption = None,
) -> None:
    """Make one run per combination of values, and compare them.

    Each run is one process without Ray, with its own folder. Finished runs are
    not repeated; interrupted ones resume from their last checkpoint.
    """
    from flasc_flwr.app.cli.common import fail, parsed, user_errors

    into = into.expanduser()
    with user_errors():
        from flasc_flwr.app.cli import combinations
        from flasc_flwr.app.config.app_settings import settings_of_app
        from flasc_flwr.app.runs.jobs import JobError

        named = {
            "method": method,
            "download-density": download_density,
            "upload-density": upload_density,
            "lora-rank": lora_rank,
            "seed": seed,
        }
        given = {key: text for key, text in named.items() if text is not None}
        values = combinations.axes(given, grid or [])
        base = settings_of_app(app.expanduser(), for_many=True) | parsed(run_config)
        jobs = combinations.jobs(base, values, clients)
        failed = None
        try:
            _make(jobs, into, app, at_once)
        except JobError as error:
            failed = str(error)
        except KeyboardInterrupt:
            _print_left(jobs, into)
            raise typer.Exit(130) from None
        _show(jobs, into, target)
    if failed:
        fail(failed)


def _make(jobs: Mapping[str, Job], into: Path, app: Path, at_once: int) -> None:
    """Make the runs, and show the progress."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from flasc_flwr.app.runs.jobs import finished, run_jobs

    done = sum(finished(into / name) is not None for name in jobs)
    typer.echo(f"{len(jobs)} runs in {into}: {done} done, {len(jobs) - done} left")
    console = Console()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("runs", total=len(jobs), completed=done)

        def on_end(name: str, folder: Path) -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            text = f"{done}/{len(jobs)} {name}: {_reached(folder)}"
            if bar.disable:
                typer.echo(text)
            else:
                bar.console.print(text, markup=False, highlight=False)

        run_jobs(
            jobs,
            into,
            app=app.expanduser().resolve(),
            at_once=at_once,
            on_end=on_end,
        )


def _reached(folder: Path) -> str:
    from flasc_flwr.app.reporting.cells import megabytes, percent
    from flasc_flwr.app.reporting.run_files import read_summary

    summary = read_summary(folder)
    down, up = (summary.get(f"message_bytes_{way}") for way in ("down", "up"))
    sent = None if down is None or up is None else (down + up) / 1e6
    return f"{percent(summary.get('accuracy'))}, {megabytes(sent)} MB"


def _print_left(jobs: Mapping[str, Job], into: Path) -> None:
    from flasc_flwr.app.runs.jobs import finished

    left = sum(finished(into / name) is None for name in jobs)
    typer.echo(
        f"Stopped: {len(jobs) - left} of {len(jobs)} runs in {into} are done, {left} "
        "left. Rerun the same command to resume.",
        err=True,
    )


def _show(jobs: Mapping[str, Job], into: Path, target: float | None) -> None:
    """Print the comparison of the finished runs."""
    from flasc_flwr.app.cli.compare import show
    from flasc_flwr.app.reporting import comparison
    from flasc_flwr.app.reporting.groups import group
    from flasc_flwr.app.reporting.runs import read_run
    from flasc_flwr.app.runs.jobs import finished

    runs = [read_run(found) for name in jobs if (found := finished(into / name))]
    if runs:
        show(comparison.compare(group(runs), target), [])
