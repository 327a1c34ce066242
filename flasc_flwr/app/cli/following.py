"""Following a run to its end, and finding out how it ended."""

from __future__ import annotations

import re
from contextlib import ExitStack

import typer

from flasc_flwr.app.cli.common import one_line
from flasc_flwr.app.cli.live import Lines, view_of
from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.cli.superlink import FlwrRun
from flasc_flwr.app.reporting.runs import read_summary
from flasc_flwr.app.reporting.summary import failure

_EVERY = 0.25
_ERROR = re.compile(r"(?:[\w.]+(?:Error|Exception)|ERROR|Error): .+")


def follow(
    flower: FlwrRun, progress: Progress, title: str, *, show_log: bool = False
) -> None:
    """Show a run until its log ends.

    Parameters
    ----------
    flower : FlwrRun
        The process.
    progress : Progress
        Filled with what becomes known.
    title : str
        What the run is.
    show_log : bool
        Print the log itself.
    """
    with ExitStack() as stack:
        view = Lines(progress) if show_log else view_of(progress, title)
        stack.callback(view.close)
        for line in flower.lines(_EVERY):
            news = progress.take_in(line) if line else None
            if line and show_log:
                typer.echo(line, nl=False)
            elif news:
                view.tell(news)
            for row in progress.new_rows():
                if not show_log:
                    view.add(row)


def verdict(flower: FlwrRun, progress: Progress) -> str | None:
    """Return why a run failed, in one line; None if it did not."""
    if progress.folder and (summary := read_summary(progress.folder)):
        reason = failure(summary)
        return None if reason is None else one_line(reason)
    if progress.run_id is None:
        return _last_error(progress)
    said = flower.told(progress.run_id)
    status = said.get("status", "")
    if status == "finished:completed" and not progress.here:
        return None  # its folder is on another machine
    if status.startswith("finished"):
        details = str(said.get("status-details", ""))
        return one_line(details) if "exception" in details else _last_error(progress)
    return (
        f"its log ended, but Flower says that run {progress.run_id} is "
        f"{status or 'unknown'}; it may go on: flwr log {progress.run_id}"
    )


def _last_error(progress: Progress) -> str:
    """Return the last line of the log that tells of an error, or its last line."""
    errors = [line for line in progress.log if _ERROR.fullmatch(line)]
    lines = errors or list(progress.log) or ["flwr run said nothing"]
    return one_line(lines[-1])
