"""``flasc-flwr check``."""

from __future__ import annotations

import typer

from flasc_flwr.app.cli.common import SettingsArgument


def check(config: SettingsArgument = None) -> None:
    """Check a run config without running it, and print all its settings.

    SETTINGS is as for --run-config: such as "method='dense' seed=1", or the
    path of a TOML file.
    """
    from flasc_flwr.app.cli.common import parsed, user_errors
    from flasc_flwr.app.config import RunConfig

    with user_errors():
        resolved = RunConfig.parse(parsed(config))
    for key, value in resolved.to_dict().items():
        typer.echo(f"{key} = {value!r}")
