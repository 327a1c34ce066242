"""What is known of a run while it goes on, from Flower's log and the run folder."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from flasc_flwr.app.reporting.runs import read_history

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR)\s*:\s*")
_STARTED = re.compile(r"Successfully started run (\d+)")
_FOLDER = re.compile(r"Run folder: (.+)")
_ROUND = re.compile(r"Round \d+/\d+ .*")
_FRAME = "╭╮╰╯│─ "
_LAST_LINES = 400
_RECENT = 5

PHASES = {
    "Starting local SuperLink": "starting Flower's SuperLink",
    "Successfully started run": "starting the run",
    "Starting Flower Simulation": "starting the simulation",
    "Run folder:": "loading the model and the data",
    "Starting Flasc strategy": "introductions, and a first evaluation",
}
"""What a line of the log begins with, and what goes on from there."""


@dataclass
class Progress:
    """A run that is under way.

    Attributes
    ----------
    rounds : int
        How many there will be.
    phase : str
        What goes on now.
    run_id : int or None
        Flower's id, once it is known.
    folder : Path or None
        The run folder, once it is known; it may lie on another machine.
    rows : list[dict[str, Any]]
        The history so far.
    log : deque[str]
        The last lines of the log, plain.
    """

    rounds: int
    phase: str = "building the app"
    run_id: int | None = None
    folder: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    _place: int = 0
    _began: float = field(default_factory=time.monotonic)

    def take_in(self, line: str) -> str | None:
        """Take in a line of the log; return what is new for a person, if anything."""
        text = _LEVEL.sub("", _COLOURS.sub("", line.rstrip())).strip(_FRAME)
        if not text:
            return None
        self.log.append(text)
        if found := _STARTED.search(text):
            self.run_id = int(found[1])
        if found := _FOLDER.fullmatch(text):
            self.folder = Path(found[1])
        for place, (beginning, phase) in enumerate(PHASES.items(), start=1):
            # The folder is told once more at the end.
            if text.startswith(beginning) and place > self._place:
                self._place, self.phase = place, phase
                return phase
        if _ROUND.fullmatch(text) and not self.here:
            self.phase = text
            return text
        return None

    @property
    def here(self) -> bool:
        """Whether the run folder is on this machine."""
        return self.folder is not None and self.folder.is_dir()

    def new_rows(self) -> list[dict[str, Any]]:
        """Return the rows that were written since the last call."""
        if self.folder is None:
            return []
        rows = read_history(self.folder)
        new = rows[len(self.rows) :]
        if new:
            self.rows, self.phase, self._place = rows, "training", len(PHASES)
        return new

    @property
    def round(self) -> int:
        """The last round that is over."""
        return int(self.rows[-1]["round"]) if self.rows else 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Seconds that the rounds left will take, if they are as the last ones were."""
        recent = [row["seconds"] for row in self.rows[-_RECENT:] if row["round"] > 0]
        # The first round starts the clients, which happens once.
        if len(recent) < 2:
            return None
        return float(median(recent)) * (self.rounds - self.round)

    def total(self, key: str) -> float:
        """Return the sum of a number over the rows."""
        return sum(row.get(key) or 0 for row in self.rows)

    def last(self, key: str) -> float | None:
        """Return a number of the last row that has it."""
        known = (row[key] for row in reversed(self.rows) if row.get(key) is not None)
        return next(known, None)

    @property
    def times_less(self) -> float | None:
        """How many times fewer bytes were sent than in dense float32."""
        sent = self.total("message_bytes_down") + self.total("message_bytes_up")
        dense = self.total("dense_float32_bytes")
        return dense / sent if sent and dense else None
