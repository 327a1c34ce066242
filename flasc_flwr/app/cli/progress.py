"""The state of a run that is under way, read from its folder."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from flasc_flwr.app.reporting.run_files import read_history

_LAST_LINES = 20
_RECENT = 5


@dataclass(kw_only=True)
class Progress:
    """A run that is under way.

    Everything shown comes from Flower's run id and the files of the run folder. Log
    lines are kept only to be printed: clients can write what they like into them.

    Attributes
    ----------
    rounds : int
        Number of rounds.
    runs : Path
        ``output-dir``: the run makes its folder there, with its id at the end of the
        name.
    resumed : Path, optional
        Folder of the run that is resumed.
    phase : str
        What is happening until the first row.
    folder : Path or None
        The run folder, once the ServerApp has made it on this machine.
    rows : list[dict[str, Any]]
        The history so far.
    log : deque[str]
        The last lines of Flower's log, printable characters only.
    """

    rounds: int
    runs: Path
    resumed: Path | None = None
    phase: str = "building the app and starting Flower"
    folder: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    _before: tuple[int, int] | None = None
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Note the state of a resumed run's folder before the run opens it."""
        if self.resumed:
            self._before = _stamp(self.resumed)

    def look(self, run_id: int | None) -> str | None:
        """Look at what is on disk; return the phase if it has changed."""
        if self.folder is None and run_id is not None:
            self.folder = self._find(run_id)
        last = self.phase
        if self.folder is not None:
            self.phase = "loading the model and the data"
        elif run_id is not None:
            self.phase = f"starting the simulation (Flower's log: flwr log {run_id})"
        return self.phase if self.phase != last else None

    def new_rows(self) -> Iterator[dict[str, Any]]:
        """Add the rows written since the last call one by one, and yield each."""
        written = read_history(self.folder) if self.folder else []
        for row in written[len(self.rows) :]:
            self.rows.append(row)
            yield row

    @property
    def round(self) -> int:
        """The last finished round."""
        return int(self.rows[-1]["round"]) if self.rows else 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Estimated seconds to the end: the median of the last rounds' times."""
        recent = [
            row["seconds"]
            for row in self.rows[-_RECENT:]
            if row["round"] > 0 and row.get("seconds") is not None
        ]
        # The first round is slower: it starts the clients.
        if len(recent) < 2:
            return None
        return float(median(recent)) * (self.rounds - self.round)

    def total(self, key: str) -> float:
        """Return the sum of a column over the rows."""
        return sum(row.get(key) or 0 for row in self.rows)

    def last(self, key: str) -> float | None:
        """Return the last known value of a column."""
        known = (row[key] for row in reversed(self.rows) if row.get(key) is not None)
        return next(known, None)

    @property
    def times_less(self) -> float | None:
        """How many times fewer bytes were sent than in dense float32."""
        sent = self.total("message_bytes_down") + self.total("message_bytes_up")
        dense = self.total("dense_float32_bytes")
        return dense / sent if sent and dense else None

    def _find(self, run_id: int) -> Path | None:
        """Return the run folder, once its config is written."""
        if self.resumed is not None:
            # The folder was there before: it is the run's once its config is rewritten.
            changed = _stamp(self.resumed) not in (None, self._before)
            return self.resumed if changed else None
        found = (path for path in self.runs.glob(f"*-{run_id}") if _stamp(path))
        return next(found, None)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what changes when a run folder's config is rewritten."""
    try:
        status = (folder / "config.toml").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
