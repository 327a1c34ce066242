"""``flasc-flwr evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.common import RunConfigOption


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, or an adapter's in it, or a folder with one run.",
            show_default=False,
        ),
    ],
    run_config: RunConfigOption = None,
) -> None:
    """Evaluate a run's adapter on its test split, without Flower.

    RUN is a run folder, one with a run folder below it, or an adapter's folder in one.
    """
    from click import ClickException

    from flasc_flwr.app.cli.common import fail, parsed, told

    with told():
        parsed(run_config)

        from flasc_flwr.app.cli.export import the_run
        from flasc_flwr.app.runs import saved_adapter as evaluation

        path = folder.expanduser().absolute()
        if not (path.parent / "config.toml").is_file():
            path = the_run(path)
        try:
            outcome = evaluation.evaluate(path, run_config or [])
        except ClickException as error:
            fail(error.format_message())
    typer.echo(f"examples {outcome.examples}")
    typer.echo(f"accuracy {outcome.accuracy:.6f}")
    typer.echo(f"loss {outcome.loss:.6f}")
