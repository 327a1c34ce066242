"""``flasc-flwr search``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flasc_flwr.app.cli.common import AppOption, RunConfigOption
from flasc_flwr.app.cli.numbers import CLIENTS, MEGABYTES, PROCESSES, whole

if TYPE_CHECKING:
    from flasc_flwr.app.search.search import Step

_RANK = whole(1, 65_536)


def search(
    into: Annotated[
        Path,
        typer.Option(
            help="Output directory. Rerun the same command to resume.",
            show_default=False,
        ),
    ],
    per_round_megabytes: Annotated[
        float,
        typer.Option(
            click_type=MEGABYTES,
            help="Budget of one round of one client, both ways, in MB.",
            show_default=False,
        ),
    ],
    probe_megabytes: Annotated[
        float,
        typer.Option(
            click_type=MEGABYTES,
            help="MB that each short run sends: all clients, both ways.",
            show_default=False,
        ),
    ],
    run_config: RunConfigOption = None,
    clients: Annotated[
        int, typer.Option(click_type=CLIENTS, help="Number of clients.")
    ] = 20,
    start_rank: Annotated[
        int, typer.Option(click_type=_RANK, help="Rank to start from.")
    ] = 2,
    start_density: Annotated[
        str, typer.Option(help="Density to start from, such as 0.0625 or 1/16.")
    ] = "1/64",
    max_rank: Annotated[int, typer.Option(click_type=_RANK, help="Highest rank.")] = 64,
    seeds: Annotated[
        str, typer.Option(help="Seeds; their mean accuracies are compared.")
    ] = "0",
    at_once: Annotated[
        int, typer.Option(click_type=PROCESSES, help="Number of runs at a time.")
    ] = 1,
    app: AppOption = Path("."),
) -> None:
    """Search for the rank and density to use within a byte budget.

    Doubles the rank or the density, whichever gains more accuracy for the same
    bytes, until the budget of a round is spent. Writes best.toml, a profile for
    --run-config, and search.json with all steps and reasons. The procedure is
    this project's own, after the idea of FLASC-Search.
    """
    from flasc_flwr.app.cli.common import fail, parsed, user_errors

    into = into.expanduser()
    with user_errors():
        from flasc_flwr.app.config.app_settings import settings_of_app
        from flasc_flwr.app.runs.jobs import JobError
        from flasc_flwr.app.search.candidates import Candidate, Limits
        from flasc_flwr.app.search.probes import Probes, search_into
        from flasc_flwr.app.search.search import most_accurate

        folder = app.expanduser().resolve()
        start = Candidate(start_rank, _density(start_density))
        limits = Limits(max_rank=max_rank, megabytes=per_round_megabytes)
        probes = Probes(
            base=settings_of_app(folder, for_many=True) | parsed(run_config),
            clients=clients,
            megabytes=probe_megabytes,
            into=into,
            app=folder,
            at_once=at_once,
            on_end=lambda name, folder: typer.echo(f"  {name}: {folder}"),
        )
        try:
            steps = search_into(
                into,
                probes,
                start=start,
                limits=limits,
                seeds=_integers(seeds),
                on_step=_show,
            )
        except JobError as error:
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("Stopped. Rerun the same command to resume.", err=True)
            raise typer.Exit(130) from None
    end, most = steps[-1].next, most_accurate(steps, limits)
    typer.echo(f"Best within the budget: {end}: {into / 'best.toml'}")
    if most.candidate != end:
        typer.echo(
            f"After {probe_megabytes:g} MB, {most.candidate} was more accurate "
            f"({most.results[0].accuracy:.4f}, first seed): prefer it for runs this "
            "short"
        )


def _show(step: Step) -> None:
    if step.chosen == "start":
        head = f"start: {step.at}"
    elif step.chosen:
        head = f"{step.at}: raise {step.chosen}: {step.next}"
    else:
        head = f"{step.at}: end"
    typer.echo(f"{head}\n  {step.reason}")


def _density(text: str) -> float:
    from flasc_flwr.core.ranges import fraction

    value: float | str = text
    with suppress(ValueError):
        value = float(text)
    checked: float = fraction("(0, 1]").require("start-density", value)
    return checked


def _integers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(
            f"seeds must be integers separated by commas, such as 0,1,2, got {text!r}"
        ) from None
