"""Where the seconds of a round go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("select", "clients", "aggregate", "evaluate")
"""Selecting and encoding, waiting for replies, aggregating them, evaluating."""


class Stopwatch:
    """Counts the seconds of each phase, and not those of a phase inside it.

    Parameters
    ----------
    clock : Callable[[], float]
        Returns seconds. Default: those of the wall clock.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._now = ""
        self._since = clock()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Count the time in here for `phase`, and not for a phase around it."""
        around = self._turn_to(phase)
        try:
            yield
        finally:
            self._turn_to(around)

    def by_phase(self) -> dict[str, float]:
        """Return the seconds of each phase so far; of the time between as ``""``."""
        self._turn_to(self._now)
        return dict(self._seconds)

    def _turn_to(self, phase: str) -> str:
        before, now = self._now, self._clock()
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._now, self._since = phase, now
        return before


class Phases(Stopwatch):
    """A stopwatch for the phases of a round."""

    def seconds(self) -> dict[str, float]:
        """Return ``seconds_PHASE`` for every phase, and ``seconds``, the total."""
        taken = self.by_phase()
        return {
            **{f"seconds_{phase}": round(taken.get(phase, 0.0), 3) for phase in PHASES},
            "seconds": round(sum(taken.values()), 3),
        }
