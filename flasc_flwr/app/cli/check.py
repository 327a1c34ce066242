"""``flasc-flwr check``."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SETTINGS]...",
            help="What would stand after --run-config.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a run config without running it, and print what it comes to."""
    from flasc_flwr.app.cli.common import parsed, told
    from flasc_flwr.app.config import RunConfig

    with told():
        resolved = RunConfig.parse(parsed(config))
    for key, value in resolved.to_dict().items():
        typer.echo(f"{key} = {value!r}")
