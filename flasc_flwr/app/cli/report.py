"""``flasc-flwr report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flasc_flwr.app.cli.common import RunsArgument, TargetOption


def report(
    runs: RunsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="The page; report.html in RUN, or here if there are several.",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = None,
) -> None:
    """Write a page with figures and tables of runs, which opens without a network.

    RUN is a run folder, or a folder with run folders below it, such as a sweep's.
    Beside it lie the figures as SVG and PNG. Runs that differ in their seed alone are
    drawn as one curve with a band.
    """
    from flasc_flwr.app.cli.common import told

    with told():
        from flasc_flwr.app.reporting.page import write_report
        from flasc_flwr.app.reporting.runs import find_runs, read_run

        found = [read_run(folder) for folder in find_runs(runs)]
        page = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
        if page.suffix != ".html":
            raise ValueError(f"--out is {str(page)!r}, allowed is a name with .html")
        page = page.expanduser().absolute()
        write_report(found, page, target)
    typer.echo(f"{len(found)} runs: {page}")
