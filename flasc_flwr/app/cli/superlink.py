"""Flower's own commands, as processes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flasc_flwr.flower.compat import FLWR_COMMAND

_SETTINGS = {
    # No second torch for each run.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Its notice would stand in the log.
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
"""Set where the user has not set them."""

_ALWAYS = {
    # The log comes line by line, and errors in one line each.
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "1000",
    # A log may hold what a console of another encoding cannot show.
    "PYTHONIOENCODING": "utf-8:replace",
}


class FlwrRun:
    """``flwr run --stream`` in a process that Ctrl-C does not reach.

    Parameters
    ----------
    app : Path
        Folder of the app.
    superlink : str, optional
        Name of the connection; by default Flower's default.
    options : Sequence[str]
        More options of ``flwr run``.
    """

    def __init__(
        self, app: Path, superlink: str | None, options: Sequence[str]
    ) -> None:
        self._superlink = superlink
        words = ["run", str(app), *([superlink] if superlink else [])]
        self._process = subprocess.Popen(
            [*_flwr(), *words, "--stream", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def lines(self, every: float) -> Iterator[str | None]:
        """Yield the lines of the log until its end; None where none came in time.

        Parameters
        ----------
        every : float
            Seconds to wait for a line.
        """
        while True:
            try:
                line = self._lines.get(timeout=every)
            except queue.Empty:
                yield None
                continue
            if line is None:
                self._process.wait()
                return
            yield line

    @property
    def status(self) -> int:
        """Exit status of ``flwr run``: 0 does not mean that the run succeeded."""
        return self._process.wait()

    def stop(self, run_id: int | None) -> bool:
        """Stop the run, and stop following it; say whether Flower did so."""
        stopped = True
        if run_id is not None:
            stopped = _call("stop", str(run_id), *self._connection).returncode == 0
        self._process.terminate()
        self._process.wait()
        return stopped

    def told(self, run_id: int) -> Mapping[str, Any]:
        """Return what ``flwr list`` says of a run; empty if it says nothing."""
        done = _call(
            "list", *self._connection, "--run-id", str(run_id), "--format", "json"
        )
        # What Flower tells people may stand around the answer.
        start, end = done.stdout.find("{"), done.stdout.rfind("}")
        try:
            answer: dict[str, Any] = json.loads(done.stdout[start : end + 1])
            found: dict[str, Any] = answer["runs"][0]
        except (ValueError, LookupError):
            return {}
        return found

    @property
    def _connection(self) -> list[str]:
        return [self._superlink] if self._superlink else []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode(errors="replace"))
        self._lines.put(None)


def _flwr() -> list[str]:
    """Return the command of the Flower that is installed beside this package."""
    return [sys.executable, "-c", FLWR_COMMAND]


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_flwr(), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    # Flower starts other commands of its own by name.
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ.get("PATH", "")])
    return {**_SETTINGS, **os.environ, **_ALWAYS, "PATH": path}
