"""Which run ``resume`` names, and whether there is anything to resume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_files import read_summary
from flasc_flwr.app.reporting.runs import SavedRun, read_run
from flasc_flwr.app.reporting.summary import failure
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.state.checkpoint import Checkpoint, CheckpointError
from flasc_flwr.flower.state.checkpoint_files import found, read

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, in its own."""


@dataclass(frozen=True, eq=False)
class Resumed:
    """A run that is to be resumed, as it is on the disk.

    Attributes
    ----------
    folder : Path
        Its folder.
    checkpoint : Checkpoint
        The state to resume from.
    finished : bool
        Whether it ended well: nothing may change its files but another round.
    nothing : str or None
        Why there is nothing to resume, and what to set to continue.
    """

    folder: Path
    checkpoint: Checkpoint
    finished: bool
    nothing: str | None

    @classmethod
    def of(cls, config: RunConfig) -> Resumed:
        """Read what ``resume`` names, and change nothing.

        Raises
        ------
        CheckpointError
            If it has no valid checkpoint, or had other settings.
        """
        path = resumed_path(config)
        checkpoint = read(path if path.is_file() else path / CHECKPOINTS)
        checkpoint.require_settings(config.shared_by_resumed())
        folder = folder_of(path)
        return cls(
            folder, checkpoint, is_finished(folder), nothing_to_resume(config, folder)
        )


def resumed_path(config: RunConfig) -> Path:
    """Return what ``resume`` names: a run folder, or the file of a checkpoint.

    Raises
    ------
    CheckpointError
        If it is ``latest`` and no run in ``output-dir`` has a checkpoint.
    """
    if config.resume == "latest":
        return _latest(Path(config.output_dir).expanduser())
    return Path(config.resume).expanduser()


def folder_of(path: Path) -> Path:
    """Return the run folder of what ``resume`` names."""
    return path.parent.parent if path.is_file() else path


def is_finished(folder: Path) -> bool:
    """Return whether the run in a folder ended well."""
    summary = read_summary(folder)
    return bool(summary) and failure(summary) is None


def nothing_to_resume(config: RunConfig, folder: Path) -> str | None:
    """Return why a run is not to be resumed; None if it is.

    That is a run that ended well, unless `config` asks for more rounds than it has, or
    for another condition to stop than the one that ended it.

    Raises
    ------
    ValueError
        If the run's files cannot be read.
    """
    if not is_finished(folder):
        return None
    run = read_run(folder)
    if run.rounds >= config.num_server_rounds:
        return (
            f"it has all of its {run.rounds} rounds; set num-server-rounds above "
            f"{run.rounds} to continue"
        )
    if run.rounds >= run.config.num_server_rounds:
        return None
    traffic = _traffic_of(run)
    if reason := config.stop.reason(run.history, traffic):
        return (
            f"it stopped after round {run.rounds}: {reason}; change that condition to "
            "continue"
        )
    if run.config.stop.reason(run.history, traffic):
        return None
    # What ended it is not among the settings that may change: a spent privacy budget.
    return f"it stopped after round {run.rounds}: {run.ended}"


def _latest(runs: Path) -> Path:
    """Return the newest run folder that has a checkpoint."""
    having = sorted(f for f in runs.glob("*") if found(f / CHECKPOINTS))
    if not having:
        raise CheckpointError(
            f"resume is 'latest', but no run in {str(runs)!r} has a checkpoint"
        )
    return having[-1]


def _traffic_of(run: SavedRun) -> Traffic:
    """Return a finished run's traffic, as its stop conditions see it."""
    traffic = Traffic()
    for row in run.traffic:
        amounts = {key: row[key] for key in ("round", "client", "payload", "message")}
        traffic.record(Sent(direction=Direction(row["direction"]), **amounts))
    return traffic
