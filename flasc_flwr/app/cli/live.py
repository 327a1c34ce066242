"""The live view of a run in a terminal, and its plain lines elsewhere."""

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

    def tell(self, news: str) -> None:
        """Show what happened."""

    def add(self, row: dict[str, Any]) -> None:
        """Show a round that is over."""

    def close(self) -> None:
        """Leave what was shown last."""


def view_of(progress: Progress, title: str) -> View:
    """Return the view for what stdout is."""
    console = Console()
    return Screen(progress, title, console) if console.is_terminal else Lines(progress)


class Lines:
    """One plain line for each thing that happens, for files and pipes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.tell(progress.phase)

    def tell(self, news: str) -> None:
        """Print what happened, and when."""
        self._print(news)

    def add(self, row: dict[str, Any]) -> None:
        """Print a round that is over, with the sums until then."""
        parts = (
            f"round {row['round']}/{self._progress.rounds}",
            *(f"{name} {value}" for name, value in figures(self._progress)),
        )
        self._print("  ".join(parts))

    def close(self) -> None:
        """Leave all as it is."""

    def _print(self, text: str) -> None:
        print(f"[{clock(self._progress.elapsed)}] {text}")
        sys.stdout.flush()


class Screen:
    """A view that is drawn anew, four times a second.

    Parameters
    ----------
    progress : Progress
        What it shows.
    title : str
        What the run is.
    console : Console
        Where.
    """

    def __init__(self, progress: Progress, title: str, console: Console) -> None:
        self._progress = progress
        self._title = title
        self._live = Live(
            get_renderable=self._drawn, console=console, refresh_per_second=4
        )
        self._live.start()

    def tell(self, news: str) -> None:
        """Leave it to the next drawing."""

    def add(self, row: dict[str, Any]) -> None:
        """Leave it to the next drawing."""

    def close(self) -> None:
        """Draw once more, and give the terminal back."""
        self._live.stop()

    def _drawn(self) -> RenderableType:
        progress = self._progress
        head = Text(self._title, style="bold", overflow="ellipsis", no_wrap=True)
        if not progress.rows:
            return Group(head, Text(f"{progress.phase} ... {clock(progress.elapsed)}"))
        left = progress.left
        times = f"  {clock(progress.elapsed)} gone"
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
    """Return what a person watches, by name."""
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
        ("replies", f"{row['replies']}"),
        ("failures", f"{sum(len(r['failures']) for r in progress.rows)}"),
    ]


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
