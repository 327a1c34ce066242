"""``flasc-flwr compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flasc_flwr.app.cli.common import RunsArgument, TargetOption
from flasc_flwr.core.json_lines import as_json as text_of

if TYPE_CHECKING:
    from rich.table import Table


def compare(
    runs: RunsArgument,
    target: TargetOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Compare runs: accuracy, MB both ways, reduction against dense float32.

    RUN is a run folder, or a folder that contains some, such as a sweep's. Runs
    that differ only in their seed are one row, with the means over the seeds.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from flasc_flwr.app.reporting import comparison
        from flasc_flwr.app.reporting.groups import group
        from flasc_flwr.app.reporting.runs import find_runs, read_run

        found = [read_run(folder) for folder in find_runs(runs)]
        rows = comparison.compare(group(found), target)
    if as_json:
        typer.echo(text_of(rows, indent=1))
    else:
        show(rows, [f"{r.folder}: {r.ended}" for r in found if r.status != "finished"])


def show(rows: Sequence[Mapping[str, Any]], not_finished: Sequence[str]) -> None:
    """Print the rows of a comparison, and the runs that did not finish."""
    from rich.console import Console

    from flasc_flwr.core.printable import printable

    # Do not wrap the table in a file or a pipe.
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(_table(rows))
    for line in not_finished:
        typer.echo(f"Not finished: {printable(line, 1000)}")


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from flasc_flwr.app.reporting.cells import cells
    from flasc_flwr.core.printable import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [cells(row) for row in rows]
    for column in lines[0]:
        left = column == "runs"
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line.values()))
    return table
