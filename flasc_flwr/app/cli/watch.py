"""``flasc-flwr watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.common import TargetOption
from flasc_flwr.app.cli.numbers import number, whole


def watch(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Run folders, or folders in which runs are or will be, such as the "
            "output-dir.",
            show_default=False,
        ),
    ],
    port: Annotated[
        int,
        typer.Option(
            click_type=whole(0, 65535),
            help="Port on this machine; 0 takes one that is free.",
        ),
    ] = 0,
    every: Annotated[
        float,
        typer.Option(
            click_type=number("[0.1, 86400]"),
            help="Seconds between two looks at the folders.",
        ),
    ] = 3.0,
    target: TargetOption = None,
) -> None:
    """Show the report in a browser, and refresh it while runs go on.

    Prints an address that only this machine can reach, with a token in it that
    others on the machine do not know. Ctrl-C ends it; runs are not affected.
    """
    from flasc_flwr.app.cli.common import fail, user_errors

    with user_errors():
        for folder in folders:
            if folder.expanduser().is_file():
                fail(f"FOLDER must be a folder, got the file {str(folder)!r}")

        import time

        from flasc_flwr.app.reporting.watch.live_report import LiveReport
        from flasc_flwr.app.reporting.watch.server import serving

        def wait() -> bool:
            time.sleep(every)
            return False

        live = LiveReport(folders, target)
        try:
            live.look()
            with serving(live, port) as address:
                typer.echo(f"Watching at {address}")
                typer.echo("Ctrl-C ends it; runs are not affected.")
                live.follow(wait)
        except KeyboardInterrupt:
            typer.echo("Ended.")
