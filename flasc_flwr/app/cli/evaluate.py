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
            help="A run folder, a folder that contains one, or the folder of one of "
            "its adapters.",
            show_default=False,
        ),
    ],
    run_config: RunConfigOption = None,
) -> None:
    """Evaluate a run's adapter on the run's test split, without Flower.

    RUN is a run folder, a folder that contains one, or the folder of an adapter
    in a run folder. Of a language model the perplexity is printed, too, and with
    domain-column all figures of each domain.
    """
    from flasc_flwr.app.cli.common import parsed, user_errors

    with user_errors():
        overrides = parsed(run_config)

        from flasc_flwr.app.cli.export import run_or_adapter
        from flasc_flwr.app.runs.saved_adapter import evaluate_adapter

        path = run_or_adapter(folder)
        result = evaluate_adapter(path, overrides)
    for name, value in result.items():
        typer.echo(f"{name} {value if name == 'examples' else format(value, '.6f')}")
