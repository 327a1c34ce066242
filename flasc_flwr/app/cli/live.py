"""The live view of a run: a redrawn screen in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.reporting.cells import megabytes, percent


class View(Protocol):
    """Shows a run that is under way."""

    def enter(self, phase: str) -> None:
        """Show that a phase begins."""

    def add(self, row: dict[str, Any]) -> None:
        """Show a finished round."""

    def close(self) -> None:
        """Stop updating."""


def view_of(progress: Progress, title: str) -> View:
    """Return the view that suits stdout."""
    console = Console()
    return Screen(progress, title, console) if console.is_terminal else Lines(progress)


class Lines:
    """One plain line per phase and round, for files and pipes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.enter(progress.phase)

    def enter(self, phase: str) -> None:
        """Print the phase, and the time."""
        self._print(phase)

    def add(self, row: dict[str, Any]) -> None:
        """Print the round, with the totals so far."""
        parts = (
            f"round {row['round']}/{self._progress.rounds}",
            *(f"{name} {value}" for name, value in figures(self._progress)),
        )
        self._print("  ".join(parts))

    def close(self) -> None:
        """Do nothing."""

    def _print(self, text: str) -> None:
        print(f"[{clock(self._progress.elapsed)}] {text}")
        sys.stdout.flush()


class Screen:
    """A view that is redrawn four times a second.

    Parameters
    ----------
    progress : Progress
        The run.
    title : str
        One line about the run.
    console : Console
        The terminal.
    """

    def __init__(self, progress: Progress, title: str, console: Console) -> None:
        self._progress = progress
        self._title = title
        self._live = Live(
            get_renderable=self._drawn, console=console, refresh_per_second=4
        )
        self._live.start()

    def enter(self, phase: str) -> None:
        """Do nothing: the next redraw shows it."""

    def add(self, row: dict[str, Any]) -> None:
        """Do nothing: the next redraw shows it."""

    def close(self) -> None:
        """Redraw a last time, and release the terminal."""
        self._live.stop()

    def _drawn(self) -> RenderableType:
        progress = self._progress
        head = Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        if not progress.rows:
            return Group(head, Text(f"{progress.phase} ... {clock(progress.elapsed)}"))
        left = progress.left
        times = f"  {clock(progress.elapsed)} elapsed"
        times += f", {clock(left)} left" if left is not None else ""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"round {progress.round}/{progress.rounds}",
            ProgressBar(total=progress.rounds, completed=progress.round, width=24),
            times,
        )
        table = Table.grid(padding=(0, 2))
        for name, value in figures(progress):
            table.add_row(name, Text(value, style="bold"))
        return Group(head, bar, table)


def figures(progress: Progress) -> list[tuple[str, str]]:
    """Return the figures of the view, by name."""
    row, less, loss = progress.rows[-1], progress.times_less, progress.last("loss")
    epsilon = progress.last("epsilon")
    spent = [] if epsilon is None else [("epsilon", f"{epsilon:.4g}")]
    return [
        ("accuracy", percent(progress.last("accuracy"))),
        ("loss", "-" if loss is None else f"{loss:.3f}"),
        ("down", megabytes(progress.total("message_bytes_down") / 1e6) + " MB"),
        ("up", megabytes(progress.total("message_bytes_up") / 1e6) + " MB"),
        ("less than dense float32", "-" if less is None else f"{less:.1f} x"),
        *spent,
        ("replies", f"{row.get('replies', '-')}"),
        ("failures", f"{sum(len(r.get('failures') or ()) for r in progress.rows)}"),
    ]


def clock(seconds: float) -> str:
    """Return a time as M:SS, or H:MM:SS from one hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
