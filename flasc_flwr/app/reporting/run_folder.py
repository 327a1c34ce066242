"""The folder of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from logging import ERROR, INFO, WARNING
from pathlib import Path
from types import TracebackType
from typing import Any

import tomli_w
from filelock import FileLock

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.adapters import adapter_of, drop_adapters
from flasc_flwr.app.reporting.answers import (
    FILE as ANSWERS,
)
from flasc_flwr.app.reporting.answers import (
    add_answers,
    kept_answers,
    last_answered,
)
from flasc_flwr.app.reporting.resuming import CHECKPOINTS, Resumed
from flasc_flwr.app.reporting.run_lock import hold
from flasc_flwr.app.reporting.summary import (
    FAILED,
    as_line,
    as_table,
    how_it_ended,
    summarise,
)
from flasc_flwr.app.reporting.trackers import TrackerError, Trackers
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.printable import printable, with_notes
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.state.checkpoint_files import replacing
from flasc_flwr.flower.state.run_state import RunState

_RELEASES = "releases.jsonl"
_LONGEST = 2000
"""Longest reason of a failed run, in characters: it may quote what clients sent."""
_AT_THE_END = ("summary.json", "traffic.json", "tensors.json")


class RunFolder:
    """Where a run's results go: one folder under ``output-dir``.

    ``config.toml`` (resolved), ``history.jsonl`` (one row a round, written as it
    ends), ``summary.json``, ``traffic.json`` (bytes by round, client and direction),
    ``tensors.json`` (density and bits of each), ``answers.jsonl`` (with
    ``evaluate-generate``) and ``adapter/`` (PEFT's format). As a context manager it
    logs the folder's path at the start and at the end; if the run fails, it writes the
    reason and the totals so far into ``summary.json``.
    """

    def __init__(
        self, path: Path, config: RunConfig, state: RunState | None = None
    ) -> None:
        self.path = path
        self._config = config
        self._state = state
        self._rows = list(state.history) if state else []
        self._trackers = Trackers.of(config.trackers)
        self._untouched = False
        self._has_old_adapters = False
        self._lock: FileLock | None = None

    @classmethod
    def create(cls, config: RunConfig, *, run_id: int) -> RunFolder:
        """Make the folder, named by time, method, seed and run id.

        Where another run has taken the name in the same second, a number precedes the
        run id.
        """
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = f"{now}-{config.method}-seed{config.seed}"
        runs = Path(config.output_dir).expanduser()
        folder = cls(runs, config)  # fails without a folder if a tracker is missing
        folder.path = _new_folder(runs, name, run_id)
        folder._lock = hold(folder.path)
        (folder.path / "config.toml").write_text(tomli_w.dumps(config.to_dict()))
        return folder

    @classmethod
    def reopen(cls, resumed: Resumed, config: RunConfig) -> RunFolder:
        """Open the folder of an earlier run, to resume from its checkpoint.

        Its history is cut back to the checkpoint, so that it has each round once, and
        files written at its end are deleted; after the next round also adapters that
        the history does not have. A finished run stays as it is until another round is
        done.

        Raises
        ------
        RunInUseError
            If the run still goes on, in another process.
        """
        folder = cls(resumed.folder, config, resumed.checkpoint.state)
        folder._lock = hold(folder.path)
        folder._untouched = resumed.finished
        folder._has_old_adapters = True
        if not folder._untouched:
            folder._cut_back()
        return folder

    @property
    def releases(self) -> Path:
        """The release ledger of a private run."""
        return self.path / _RELEASES

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints go."""
        return self.path / CHECKPOINTS

    def __enter__(self) -> RunFolder:
        log(INFO, "Run folder: %s", self.path)
        if self._untouched:
            return self
        try:
            self._trackers.start(self._config, self.path, self._rows)
        except TrackerError as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            reason = printable(with_notes(error), _LONGEST)
            ended = f"{FAILED}{reason or type(error).__name__}"
            if self._untouched:
                log(INFO, "The finished run in this folder is as it was")
            else:
                self._close_after(ended)
            log(ERROR, "The run %s", ended)
        log(INFO, "Run folder: %s", self.path)
        if self._lock:
            self._lock.release()

    def _close_after(self, ended: str) -> None:
        """Write the summary of a failed run, if its disk lets that happen."""
        try:
            self._close(ended)
        except OSError as error:  # the run's own error counts
            log(ERROR, "The run's summary could not be written: %s", error)

    def add_row(self, row: dict[str, Any], state: RunState) -> None:
        """Add a round's row to the history, and log it; `state` is the run's."""
        if self._untouched:  # a finished run that continues: it is one no more
            self._untouched = False
            self._cut_back()
            self._trackers.start(self._config, self.path, self._rows)
        self._drop_old_adapters()
        self._state = state
        with (self.path / "history.jsonl").open("a") as file:
            file.write(as_json(row) + "\n")
        log(INFO, as_line(row, self._config.num_server_rounds))
        self._trackers.log(row)

    def add_answers(self, round: int, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the answers to test prompts after a round."""
        add_answers(self.path, round, rows)

    @property
    def answered(self) -> int | None:
        """The last round with answers; None if there is none."""
        return last_answered(self.path)

    def adapter(self, round: int | None = None) -> Path:
        """Return the folder for the adapter after a round, or for the final one."""
        return adapter_of(self.path, round)

    def finish(
        self,
        ended: str,
        tensors: dict[str, Any],
        *,
        warnings: Sequence[str] = (),
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Write the tensors, the traffic and the summary, and log the summary.

        Parameters
        ----------
        ended : str
            Why the run ended.
        tensors : dict[str, Any]
            The content of ``tensors.json``.
        warnings : Sequence[str]
            What is wrong with the result, if anything is.
        measured : Mapping[str, float], optional
            What was measured after the last row.
        """
        if self._state:
            ended = how_it_ended(ended, self._state.history)
        write_json(self.path / "tensors.json", tensors)
        for line in as_table(self._close(ended, warnings, measured)).splitlines():
            log(INFO, line)
        for warning in warnings:
            log(WARNING, warning)

    def _cut_back(self) -> None:
        """Leave the rounds before those to come, and no files of an earlier end."""
        rows = "".join(as_json(row) + "\n" for row in self._rows)
        write_text(self.path / "history.jsonl", rows)
        write_text(self.path / "config.toml", tomli_w.dumps(self._config.to_dict()))
        if (self.path / ANSWERS).is_file():
            last = max((row["round"] for row in self._rows), default=-1)
            write_text(self.path / ANSWERS, kept_answers(self.path, last))
        for name in _AT_THE_END:
            (self.path / name).unlink(missing_ok=True)

    def _drop_old_adapters(self) -> None:
        """Delete adapters of an earlier end, and of rounds that are made again.

        They would be taken for those of the history, which has other rounds now. Until
        there is a new round they are the best that there is.
        """
        if not self._has_old_adapters:
            return
        self._has_old_adapters = False
        drop_adapters(self.path, max((row["round"] for row in self._rows), default=-1))

    def _close(
        self,
        ended: str,
        warnings: Sequence[str] = (),
        measured: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Write the traffic, if there was a round, and the summary; return that."""
        summary: dict[str, Any] = {"ended": ended}
        if state := self._state:
            write_text(self.path / "traffic.json", _lines_of(state.traffic))
            summary = summarise(state.history, state.traffic, state.layout.size, ended)
            # A round that failed after its release has no row.
            spent = state.privacy.get("spent", {})
            summary |= {} if spent.get("epsilon") is None else spent
        summary |= measured or {}
        summary |= {"warnings": list(warnings)} if warnings else {}
        write_json(self.path / "summary.json", summary)
        self._trackers.finish(summary)
        return summary


def _new_folder(runs: Path, name: str, run_id: int) -> Path:
    """Make a folder that no other run has; the run id ends its name."""
    number = 1
    while True:
        middle = f"-{number:02d}" if number > 1 else ""
        path = runs / f"{name}{middle}-{run_id}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file atomically."""
    write_text(path, as_json(content, indent=2) + "\n")


def _lines_of(traffic: Traffic) -> str:
    """Return the traffic as JSON, a line for each round, client and direction."""
    rows = [
        as_json([s.round, s.client, s.direction, s.payload, s.message])
        for s in traffic.sent
    ]
    columns = ["round", "client", "direction", "payload", "message"]
    return (
        f'{{"columns": {as_json(columns)},\n"rows": [\n' + ",\n".join(rows) + "\n]}\n"
    )


def write_text(path: Path, content: str) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content.encode())
