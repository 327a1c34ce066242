"""Following a run to its end, and finding out how it ended."""

from __future__ import annotations

import time
from contextlib import ExitStack

import typer

from flasc_flwr.app.cli.common import printable
from flasc_flwr.app.cli.live import View, view_of
from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.cli.superlink import FlwrRun
from flasc_flwr.app.reporting.run_files import read_summary
from flasc_flwr.app.reporting.summary import failure

_EVERY = 0.25


def follow(
    flower: FlwrRun, progress: Progress, title: str, *, show_log: bool = False
) -> None:
    """Show a run until its log ends.

    Parameters
    ----------
    flower : FlwrRun
        The run.
    progress : Progress
        Updated from the run folder.
    title : str
        One line about the run.
    show_log : bool
        Print Flower's log instead of the live view.

    Raises
    ------
    StartError
        If Flower does not start the run.
    """
    with ExitStack() as stack:
        view = None
        if not show_log:
            view = view_of(progress, title)
            stack.callback(view.close)
        looked = 0.0
        for line in flower.lines(_EVERY):
            if line and (text := printable(line)):
                progress.log.append(text)
                if show_log:
                    typer.echo(text)
            # A busy log must not slow the view down.
            if time.monotonic() - looked >= _EVERY:
                _update(flower, progress, view)
                looked = time.monotonic()
        _update(flower, progress, view)


def _update(flower: FlwrRun, progress: Progress, view: View | None) -> None:
    """Read the run folder, and show what is new."""
    phase = progress.look(flower.run_id)
    if view and phase:
        view.enter(phase)
    for row in progress.new_rows():
        if view:
            view.add(row)


def verdict(flower: FlwrRun, progress: Progress) -> str | None:
    """Return why a run failed; None if it did not, as far as this machine can know."""
    if progress.folder and (summary := read_summary(progress.folder)):
        return failure(summary)
    listed = flower.listed()
    status = str(listed.get("status", "unknown"))
    if status == "finished:completed" and progress.folder is None:
        return None  # its folder is on another machine
    details = str(listed.get("status-details", ""))
    if status.startswith("finished"):
        log = f"flwr log {flower.run_id}"
        return f"it wrote no summary; Flower reports {status}: {details}; see {log}"
    return (
        f"its log ended, but Flower reports that run {flower.run_id} is {status}; it "
        f"may still be running: flwr log {flower.run_id}"
    )
