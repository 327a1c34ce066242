"""Seconds of a round's phases, by wrapping functions; and the peak of memory."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any


class Stopwatch:
    """Counts the seconds of each phase, and not those of a phase inside it.

    Attributes
    ----------
    seconds : dict[str, float]
        Of each phase; the time outside all of them is not counted.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._now = ""
        self._since = self._clock()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        around = self._turn_to(phase)
        try:
            yield
        finally:
            self._turn_to(around)

    def take(self) -> dict[str, float]:
        """Return the seconds so far, and begin again."""
        self._turn_to(self._now)
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        taken.pop("", None)
        return taken

    def wrap(self, place: str, phase: str) -> None:
        """Count the calls of a function, ``module:name`` or ``module:class.name``.

        A name that another version of the project has, and this one has not, is left
        out.
        """
        module, _, name = place.partition(":")
        holder: Any = import_module(module)
        *path, last = name.split(".")
        for part in path:
            holder = getattr(holder, part)
        kept = holder.__dict__.get(last)
        if kept is None:
            return
        function = kept.__func__ if isinstance(kept, classmethod) else kept
        timed = self._timed(function, phase)
        setattr(holder, last, classmethod(timed) if function is not kept else timed)

    def _timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **settings: Any) -> Any:
            with self.of(phase):
                return function(*arguments, **settings)

        return timed

    def _turn_to(self, phase: str) -> str:
        before, now = self._now, self._clock()
        self.seconds[before] += now - self._since
        self._now, self._since = phase, now
        return before


def forget_peak() -> None:
    """Let :func:`peak` count from now on, where the system can (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the largest resident memory of this process since then, in MB."""
    return _status("VmHWM")


def resident() -> float:
    """Return the resident memory of this process now, in MB."""
    return _status("VmRSS")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field} in /proc/self/status")
