"""Seconds of a round's phases, by wrapping functions; and the peak of memory."""

import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from flasc_flwr.flower.state.phases import Stopwatch

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class Laps:
    """The seconds of each phase in one lap after the other.

    Parameters
    ----------
    watch : Stopwatch
        Counts them.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._before: dict[str, float] = {}

    def take(self) -> dict[str, float]:
        """Return the seconds since the last call, without those between phases."""
        now = self._watch.by_phase()
        since = {name: now[name] - self._before.get(name, 0.0) for name in now}
        self._before = now
        return {name: seconds for name, seconds in since.items() if name and seconds}


def wrap(watch: Stopwatch, place: str, phase: str) -> None:
    """Count the calls of a function, ``module:name`` or ``module:class.name``.

    A name that another version of the project has, and this one has not, is left out.
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
    timed = _timed(watch, function, phase)
    setattr(holder, last, classmethod(timed) if function is not kept else timed)


def _timed(
    watch: Stopwatch, function: Callable[..., Any], phase: str
) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any, **settings: Any) -> Any:
        with watch.of(phase):
            return function(*arguments, **settings)

    return timed


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
