"""``flasc-flwr check``."""

from __future__ import annotations

from typing import Annotated

import typer

from flasc_flwr.app.cli.common import SettingsArgument


def check(
    config: SettingsArgument = None,
    node_config: Annotated[
        str | None,
        typer.Option(
            metavar="SETTINGS",
            help="Check a device's settings instead, such as \"partition-id=0 "
            "data-path='/srv/train.csv'\", as for flower-supernode --node-config.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a run config without running it, and print all its settings.

    SETTINGS is as for --run-config: such as "method='dense' seed=1", or the
    path of a TOML file.
    """
    from flasc_flwr.app.cli.common import parsed, user_errors
    from flasc_flwr.app.config import RunConfig

    with user_errors():
        if node_config is not None:
            resolved = _device(node_config)
        else:
            resolved = RunConfig.parse(parsed(config)).to_dict()
    for key, value in resolved.items():
        typer.echo(f"{key} = {value!r}")


def _device(text: str) -> dict[str, object]:
    """Return a device's settings, checked."""
    from flasc_flwr.app.cli.common import parsed
    from flasc_flwr.app.config.node import (
        OWN_DATA,
        PARTITION,
        check_node_config,
        partition_of,
    )

    settings = parsed([text], "--node-config")
    check_node_config(settings)
    if OWN_DATA not in settings and not settings.keys().isdisjoint(PARTITION):
        partition_of(settings)
    return settings
