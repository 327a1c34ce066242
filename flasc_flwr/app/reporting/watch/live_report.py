"""The report of a folder's runs, made again whenever their files change."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.runs import SavedRun, find_runs, read_run

_READ = ("config.toml", "history.jsonl", "summary.json", "traffic.json", "tensors.json")
_NAMED = 3

Stamp = frozenset[tuple[str, int, int]]
"""Path, time and size of each file that a report is made of."""


@dataclass(frozen=True)
class Report:
    """One state of the report.

    Attributes
    ----------
    version : int
        Grows by 1 with each report.
    page : str
        The page, complete; empty while there is no run.
    state : str
        How far the runs are, in one line.
    problem : str
        Why there is no newer page; empty if there is no problem.
    """

    version: int = 0
    page: str = ""
    state: str = ""
    problem: str = "no run yet"


class LiveReport:
    """The newest report of some folders.

    Parameters
    ----------
    paths : Sequence[Path]
        Run folders, or folders in which runs are or will be.
    target : float, optional
        An accuracy, as for the report.

    Attributes
    ----------
    report : Report
        The newest one. It is replaced, never changed: any thread may read it.
    paths : Sequence[Path]
        The folders; may be replaced while they are followed.
    sent : int
        Version of the last page that a browser was sent.
    """

    def __init__(self, paths: Sequence[Path], target: float | None = None) -> None:
        self.report = Report()
        self.paths = [path.expanduser().absolute() for path in paths]
        self.sent = 0
        self._asked: float | None = None
        self._target = target
        self._stamp: Stamp | None = None

    def look(self) -> bool:
        """Make the report again if a file has changed; return whether it did.

        A folder that cannot be read now (a run may be writing its first file) is a
        problem of the report, not an error.
        """
        stamp = self._look_at_files()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.report = self._made(self.report.version + 1)
        return True

    def follow(self, wait: Callable[[], bool]) -> None:
        """Look again and again, until `wait` returns True."""
        while True:
            self.look()
            if wait():
                return

    def note_question(self) -> None:
        """Note that a page is open now, and asks for the state."""
        self._asked = time.monotonic()

    def is_open(self, seconds: float) -> bool:
        """Return whether a page has asked in so many seconds."""
        return self._asked is not None and time.monotonic() - self._asked < seconds

    def _look_at_files(self) -> Stamp:
        found = set()
        for run in self._runs():
            for name in _READ:
                try:
                    status = (run / name).stat()
                except OSError:
                    continue
                found.add((str(run / name), status.st_mtime_ns, status.st_size))
        return frozenset(found)

    def _runs(self) -> list[Path]:
        found = []
        for path in self.paths:
            try:
                found += find_runs([path])
            except (ValueError, OSError):
                continue  # none yet
        return list(dict.fromkeys(found))

    def _made(self, version: int) -> Report:
        runs = self._runs()
        if not runs:
            return Report(version)
        try:
            saved = [read_run(run) for run in runs]
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder) / "report.html"
                write_report(saved, page, self._target)
                text = page.read_text(encoding="utf-8")
            return Report(version, text, _state(saved), "")
        except (ValueError, OSError, KeyError) as error:
            last = self.report
            problem = f"not readable now: {error}"
            return Report(version, last.page, last.state, problem)


def _state(runs: Sequence[SavedRun]) -> str:
    """Return how far the runs are that have not ended."""
    going = [run for run in runs if run.status == "unfinished"]
    words = [f"{len(runs)} run{'s' if len(runs) != 1 else ''}"]
    for run in going[-_NAMED:]:
        last = next(iter(run.history[-1:]), {}).get("accuracy")
        accuracy = "" if last is None else f", accuracy {last:.1%}"
        words.append(
            f"{run.folder.name}: round {run.rounds} of "
            f"{run.config.num_server_rounds}{accuracy}"
        )
    if not going:
        words.append("all have ended")
    return "; ".join(words)
