"""The memory of processes and of their children."""

import threading
from collections.abc import Callable
from contextlib import suppress

import psutil


class Memory:
    """Samples memory every half second, inside its context.

    Parameters
    ----------
    *pids : int
        Processes; their children are counted as well.
    moment : Callable[[], int], optional
        Returns a number that is stored with each sample, such as the round.

    Attributes
    ----------
    samples : list[tuple[int, float]]
        Moment and megabytes of each sample.
    """

    def __init__(self, *pids: int, moment: Callable[[], int] = lambda: 0) -> None:
        self.samples: list[tuple[int, float]] = []
        self._pids = pids
        self._moment = moment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak(self) -> float:
        """The largest sample, in megabytes."""
        return max(megabytes for _, megabytes in self.samples)

    def _watch(self) -> None:
        while True:
            self.samples.append((self._moment(), memory_of(*self._pids)))
            if self._stop.wait(0.5):
                return


def memory_of(*pids: int) -> float:
    """Return the megabytes of processes and their children.

    Shared pages, such as Ray's object store, are counted once (proportional set
    size); outside Linux this is the resident set size.
    """
    total = 0
    for pid in pids:
        for process in _family(pid):
            with suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.rss)
    return total / 1e6


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []
