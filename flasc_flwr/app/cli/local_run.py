"""``flasc-flwr local-run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.common import AppOption, SettingsArgument
from flasc_flwr.app.cli.numbers import CLIENTS


def local_run(
    config: SettingsArgument = None,
    app: AppOption = Path("."),
    clients: Annotated[
        int, typer.Option(click_type=CLIENTS, help="Number of simulated clients.")
    ] = 20,
    end_with_stdin: Annotated[
        bool, typer.Option("--end-with-stdin", hidden=True)
    ] = False,
) -> None:
    """Run the app in one process, without Ray and without a SuperLink.

    SETTINGS is as for --run-config: such as "method='dense' seed=1", or the
    path of a TOML file; the app's pyproject.toml counts as for "flwr run".
    Clients train one after the other. Message bytes are those of "flwr run". Suits
    many small runs side by side; for a single large one, use "flasc-flwr run".
    """
    from flasc_flwr.app.cli.common import fail, parsed, user_errors

    if end_with_stdin:
        from flasc_flwr.app.runs.orphans import end_with

        end_with(0)
    with user_errors():
        from flasc_flwr.app.config.app_settings import settings_of_app
        from flasc_flwr.app.runs.local_run import run_locally
        from flasc_flwr.flower.state.health import RunFailedError

        folder = app.expanduser().resolve()
        # A run of a sweep has its own folder.
        settings = settings_of_app(folder, for_many=end_with_stdin) | parsed(config)
        try:
            run_locally(folder, settings, clients)
        except RunFailedError as error:
            fail(f"the run failed: {error}")
