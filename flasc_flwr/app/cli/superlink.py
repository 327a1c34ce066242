"""Flower's commands as processes: start a run, stream its log, stop it, list it."""

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

from click import unstyle

from flasc_flwr.app.runs.commands import own_first
from flasc_flwr.flower.compat import FLWR_COMMAND

_START_SECONDS = 30
"""How long a stop waits for the id of a run that is just being started."""

_SETTINGS = {
    # Use this environment; do not install torch again for each run.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Keep the update notice out of the log.
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
"""Set unless the user has set them."""

_ALWAYS = {
    # Line by line, and errors on one line.
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "1000",
    # The log may hold characters that the console's encoding lacks.
    "PYTHONIOENCODING": "utf-8:replace",
}


class StartError(ValueError):
    """Flower did not start the run; the message is Flower's."""


class FlwrRun:
    """A run that ``flwr run`` starts and ``flwr log`` follows.

    The run id comes from Flower's JSON answer, never from log text, in which clients
    can write what they like. Ctrl-C does not reach these processes.

    Parameters
    ----------
    app : Path
        Folder of the app.
    superlink : str, optional
        Name of the connection; by default Flower's default.
    options : Sequence[str]
        More options of ``flwr run``.

    Attributes
    ----------
    run_id : int or None
        Flower's id of the run, once it has started.
    """

    def __init__(
        self, app: Path, superlink: str | None, options: Sequence[str]
    ) -> None:
        self.run_id: int | None = None
        self._connection = [superlink] if superlink else []
        words = ["run", str(app), *self._connection, "--format", "json", *options]
        self._process = _popen(*words)

    def lines(self, every: float) -> Iterator[str | None]:
        """Yield the run's log line by line; None whenever `every` seconds pass without.

        Raises
        ------
        StartError
            If Flower does not start the run.
        """
        while self.run_id is None:
            try:
                self._read_id(every)
            except subprocess.TimeoutExpired:
                yield None
        self._process = _popen("log", str(self.run_id), *self._connection)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(
            target=_read_lines, args=(self._process, lines), daemon=True
        ).start()
        while True:
            try:
                line = lines.get(timeout=every)
            except queue.Empty:
                yield None
                continue
            if line is None:
                self._process.wait()
                return
            yield line

    def stop(self) -> bool:
        """Stop the run and stop following it; return whether Flower has stopped it."""
        try:
            if self.run_id is None:
                self._read_id(_START_SECONDS)
            done = _call("stop", str(self.run_id), *self._connection)
        except StartError:
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._process.terminate()
            self._process.wait()
        return done.returncode == 0

    def listed(self) -> Mapping[str, Any]:
        """Return what ``flwr list`` reports of the run; empty if it knows nothing."""
        words = ["list", *self._connection, "--run-id", str(self.run_id)]
        try:
            answer = _json(_call(*words, "--format", "json").stdout)
            found: dict[str, Any] = answer["runs"][0]
        except (ValueError, LookupError):
            return {}
        return found

    def _read_id(self, seconds: float) -> None:
        """Wait for the answer of ``flwr run``."""
        output, _ = self._process.communicate(timeout=seconds)
        text = output.decode(errors="replace")
        reason = text.strip() or "no output"
        try:
            answer = _json(text)
            reason = answer.get("error-message", reason)
            self.run_id = int(answer["run-id"])
        except (ValueError, LookupError, TypeError):
            raise StartError(f"flwr run: {reason}") from None


def _json(text: str) -> dict[str, Any]:
    """Return the JSON object in a command's output; notices may surround it."""
    plain = unstyle(text)
    answer: dict[str, Any] = json.loads(plain[plain.find("{") : plain.rfind("}") + 1])
    return answer


def _read_lines(
    process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.decode(errors="replace"))
    lines.put(None)


def _popen(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_flwr(), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        start_new_session=True,
    )


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_flwr(), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(),
        start_new_session=True,
    )


def _flwr() -> list[str]:
    """Return the ``flwr`` command of this environment."""
    return [sys.executable, "-c", FLWR_COMMAND]


def _environment() -> dict[str, str]:
    return {**_SETTINGS, **os.environ, **_ALWAYS, "PATH": own_first()}
