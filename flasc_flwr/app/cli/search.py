"""``flasc-flwr search``: the rank and density that a byte budget is best spent on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flasc_flwr.app.cli.common import RunConfigOption

if TYPE_CHECKING:
    from flasc_flwr.app.search.search import Step


def search(
    into: Annotated[
        Path,
        typer.Option(
            help="Folder of the search. The same command goes on with what is there."
        ),
    ],
    per_round_megabytes: Annotated[
        float,
        typer.Option(
            help="The budget: what one round of one client may cost, both ways, in MB."
        ),
    ],
    probe_megabytes: Annotated[
        float,
        typer.Option(
            help="What each short run spends: messages of all clients, both ways, MB."
        ),
    ],
    run_config: RunConfigOption = None,
    clients: Annotated[int, typer.Option(help="Number of clients.")] = 20,
    start_rank: Annotated[int, typer.Option(help="Where the rank starts.")] = 2,
    start_density: Annotated[
        str, typer.Option(help="Where the density starts, as 0.0625 or 1/16.")
    ] = "1/64",
    max_rank: Annotated[int, typer.Option(help="The highest rank.")] = 64,
    seeds: Annotated[
        str, typer.Option(help="Seeds whose mean is compared: 0,1,2.")
    ] = "0",
    at_once: Annotated[int, typer.Option(help="How many runs side by side.")] = 1,
    app: Annotated[Path, typer.Option(help="Folder of the Flower app.")] = Path(),
) -> None:
    """Raise rank or density, whichever is worth its bytes, until a budget is spent.

    Leaves best.toml, a profile for --run-config, and search.json, which has all steps
    and reasons. The procedure is this project's own, after the idea of FLASC-Search.
    """
    from flasc_flwr.app.cli.common import fail, parsed, told

    with told():
        from flasc_flwr.app.runs.jobs import JobError
        from flasc_flwr.app.search.candidates import Candidate, Limits
        from flasc_flwr.app.search.probes import Probes, search_into
        from flasc_flwr.app.search.search import most_accurate

        start = Candidate(start_rank, _density(start_density))
        limits = Limits(max_rank=max_rank, megabytes=per_round_megabytes)
        probes = Probes(
            base=parsed(run_config),
            clients=clients,
            megabytes=probe_megabytes,
            into=into,
            app=app.expanduser().resolve(),
            at_once=at_once,
            on_end=lambda name, folder: typer.echo(f"  {name}: {folder}"),
        )
        try:
            steps = search_into(
                into,
                probes,
                start=start,
                limits=limits,
                seeds=_whole_numbers(seeds),
                on_step=_tell,
            )
        except JobError as error:
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("Stopped: the same command goes on", err=True)
            raise typer.Exit(130) from None
    end, most = steps[-1].next, most_accurate(steps, limits)
    typer.echo(f"The budget is spent at {end}: {into / 'best.toml'}")
    if most.candidate != end:
        typer.echo(
            f"For {probe_megabytes:g} MB, {most.candidate} was more accurate "
            f"({most.results[0].accuracy:.4f}, first seed): if runs are to be this "
            "short, take it"
        )


def _tell(step: Step) -> None:
    raised = f"{step.chosen}, {step.next}" if step.chosen else "the end"
    typer.echo(f"{step.at}: {raised}\n  {step.reason}")


def _density(text: str) -> float:
    from flasc_flwr.core.ranges import fraction

    value: float | str = text
    with suppress(ValueError):
        value = float(text)
    checked: float = fraction("(0, 1]").require("start-density", value)
    return checked


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(
            f"seeds is {text!r}, allowed are whole numbers such as '0,1,2'"
        ) from None
