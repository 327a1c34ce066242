"""Run folders, read back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.config.toml_file import read_toml
from flasc_flwr.app.reporting.run_files import (
    Rows,
    read_history,
    read_summary,
    read_tensors,
    read_traffic,
)
from flasc_flwr.app.reporting.summary import failure


@dataclass(frozen=True, eq=False)
class SavedRun:
    """One run folder, finished or not.

    Attributes
    ----------
    folder : Path
        Where it is.
    config : RunConfig
        Its settings.
    history : list[dict[str, Any]]
        Its rows so far, one a round.
    summary : dict[str, Any]
        The content of ``summary.json``; empty if there is none.
    """

    folder: Path
    config: RunConfig
    history: Rows
    summary: dict[str, Any]

    @property
    def status(self) -> str:
        """``finished``, ``failed`` or ``unfinished``."""
        if not self.summary:
            return "unfinished"
        return "finished" if failure(self.summary) is None else "failed"

    @property
    def ended(self) -> str:
        """Why it ended, or how far it has come."""
        if self.summary:
            return str(self.summary["ended"])
        return f"unfinished: {self.rounds} of {self.config.num_server_rounds} rounds"

    @property
    def warnings(self) -> list[str]:
        """What is wrong with its result, though it ended well."""
        return [str(one) for one in self.summary.get("warnings", ())]

    @property
    def rounds(self) -> int:
        """The last round of the history; 0 if there is none."""
        return max((row["round"] for row in self.history), default=0)

    @cached_property
    def megabytes(self) -> list[float]:
        """Message bytes sent up to the end of each row, both ways, in MB."""
        sent = (
            row["message_bytes_down"] + row["message_bytes_up"] for row in self.history
        )
        return [count / 1e6 for count in accumulate(sent)]

    def total(self, key: str) -> float:
        """Return the sum of a number over the rows."""
        return sum(row.get(key) or 0 for row in self.history)

    @property
    def seconds(self) -> float | None:
        """Seconds of all rounds; None if the history does not say."""
        known = any("seconds" in row for row in self.history)
        return self.total("seconds") if known else None

    @property
    def failures(self) -> int | None:
        """How many replies failed; None if the history does not say."""
        known = [row["failures"] for row in self.history if row.get("failures")]
        counted = any("failures" in row for row in self.history)
        return sum(map(len, known)) if counted else None

    def known(self, key: str) -> tuple[Rows, list[float]]:
        """Return the rows that have a number, and the megabytes at their end."""
        pairs = zip(self.history, self.megabytes, strict=True)
        chosen = [(row, mb) for row, mb in pairs if row.get(key) is not None]
        return [row for row, _ in chosen], [mb for _, mb in chosen]

    @cached_property
    def traffic(self) -> Rows:
        """The rows of ``traffic.json`` by column; empty if there is none."""
        return read_traffic(self.folder)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The content of ``tensors.json``; empty if there is none."""
        return read_tensors(self.folder)

    @property
    def clients(self) -> int | None:
        """The number of clients; None if that is not known."""
        return len({row["client"] for row in self.traffic}) or None


def is_run(folder: Path) -> bool:
    """Return whether this is a run's folder, and not that of a job of a sweep."""
    return (folder / "config.toml").is_file() and not (folder / "job.json").exists()


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders at or below these paths, each once.

    Raises
    ------
    ValueError
        If one is not a run folder and has none below it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        path = path.expanduser().absolute()
        below = [path] if is_run(path) else _below(path)
        if not below:
            raise ValueError(
                f"{str(path)!r} is not a run folder and has none below it: a run "
                "folder has config.toml and history.jsonl"
            )
        found |= dict.fromkeys(below)
    return list(found)


def _below(path: Path) -> list[Path]:
    return sorted(p.parent for p in path.rglob("config.toml") if is_run(p.parent))


def read_run(folder: Path) -> SavedRun:
    """Read a run folder.

    Raises
    ------
    ValueError
        If it is not a run folder, or a file in it cannot be read.
    """
    try:
        config = RunConfig.parse(read_toml(folder / "config.toml"))
        return SavedRun(folder, config, read_history(folder), read_summary(folder))
    except (OSError, ConfigError, ValueError) as error:
        raise ValueError(
            f"run folder {str(folder)!r} cannot be read: {error}"
        ) from None
