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
            help="Output file (default: report.html in RUN, or in the current folder "
            "if there are several).",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = None,
) -> None:
    """Write an HTML page with figures and tables of runs. It opens offline.

    RUN is a run folder, or a folder that contains some, such as a sweep's. The
    figures are also saved beside the page as SVG and PNG. Runs that differ only
    in their seed are drawn as one curve with a band.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from flasc_flwr.app.reporting.page import write_report
        from flasc_flwr.app.reporting.runs import find_runs, read_run

        found = [read_run(folder) for folder in find_runs(runs)]
        page = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
        if page.suffix != ".html":
            raise ValueError(f"--out must end in .html, got {str(page)!r}")
        page = page.expanduser().absolute()
        write_report(found, page, target)
    typer.echo(f"Wrote {page} ({len(found)} run{'s' if len(found) > 1 else ''})")
