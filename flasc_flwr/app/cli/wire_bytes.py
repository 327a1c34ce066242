"""``flasc-flwr wire-bytes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.numbers import whole


def wire_bytes(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a finished run.", show_default=False
        ),
    ],
    connection: Annotated[
        str,
        typer.Argument(
            metavar="CONNECTION",
            help="Name of the SuperLink connection in Flower's config.",
            show_default=False,
        ),
    ],
    run_ids: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="[RUN_ID]...",
            click_type=whole(0, 2**64 - 1),
            help="Flower's run ids; list all of them if the run was resumed. Default: "
            "the number at the end of the folder's name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Add the bytes that the SuperLink counted to the summary of a finished run.

    RUN is the run folder, CONNECTION the SuperLink's name in Flower's config.
    RUN_ID defaults to the number at the end of the folder's name; list all ids
    if the run was resumed. In simulation the SuperLink's counters are zero.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from flasc_flwr.app.reporting.summary import as_table
        from flasc_flwr.app.reporting.wire_bytes import add_wire_bytes

        summary = add_wire_bytes(run.expanduser(), connection, run_ids or [])
    typer.echo(as_table(summary))
