"""Where the seconds of a round go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("select", "clients", "aggregate", "evaluate")
"""Selecting and encoding, waiting for replies, aggregating them, evaluating."""


class Phases:
    """A stopwatch for each phase, and one for the time between."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys((*PHASES, ""), 0.0)
        self._now = ""
        self._since = time.perf_counter()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count the time in here for `phase`, and not for a phase around it."""
        around = self._turn_to(phase)
        try:
            yield
        finally:
            self._turn_to(around)

    def seconds(self) -> dict[str, float]:
        """Return ``seconds_PHASE`` for every phase, and ``seconds``, the total."""
        self._turn_to(self._now)
        return {
            **{f"seconds_{phase}": round(self._seconds[phase], 3) for phase in PHASES},
            "seconds": round(sum(self._seconds.values()), 3),
        }

    def _turn_to(self, phase: str) -> str:
        before, now = self._now, time.perf_counter()
        self._seconds[before] += now - self._since
        self._now, self._since = phase, now
        return before
