"""Trackers: who else is told of a run while it goes on.

A tracker is a convenience: the run's folder has everything. One that cannot start ends
the run before any client is contacted; one that fails later is left alone from then on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any, Protocol

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.summary import failure
from flasc_flwr.core.ranges import listed
from flasc_flwr.flower.compat import log

_PROJECT = "flasc-flwr"

Row = Mapping[str, Any]
"""A row of the history."""


class TrackerError(RuntimeError):
    """A tracker that cannot be used: which, why, and what to do."""


class Tracker(Protocol):
    """What is told of a run. It imports its package when it is made."""

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Begin; `history` has the rounds of a run that is resumed."""

    def log(self, row: Row) -> None:
        """Take a round's row of the history."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End, with what ``summary.json`` holds."""


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of the history, or of a summary.

    Those of mappings have names such as ``ranks/4``; of lists there is the length;
    what was not measured is left out.
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": v for key, v in scalars(value).items()}
        elif isinstance(value, (list, tuple)):
            found[name] = len(value)
        elif isinstance(value, (int, float)) and name != "round":
            found[name] = float(value)
    return found


class TensorBoard:
    """Event files in the run's folder, under ``tensorboard``."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Open a new event file; rounds after `history` count no more."""
        purge = history[-1]["round"] + 1 if history else None
        self._writer = self._make(str(folder / "tensorboard"), purge_step=purge)
        self._text("config", config.to_dict())

    def log(self, row: Row) -> None:
        """Write the row's numbers."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["round"])
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, and close the file."""
        self._text("summary", summary)
        self._writer.close()

    def _text(self, name: str, content: Mapping[str, Any]) -> None:
        rows = [f"| {key} | {value} |" for key, value in content.items()]
        self._writer.add_text(name, "\n".join(["| key | value |", "|---|---|", *rows]))


class WeightsAndBiases:
    """A run of Weights & Biases, set up by its own environment variables.

    With ``WANDB_MODE=offline`` it stays in the run's folder, under ``wandb``.
    """

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Begin a run with the folder's name, or go on with it."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            dir=str(folder),
            id=folder.name,
            name=folder.name,
            resume="allow",
            config=config.to_dict(),
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        # A run that is resumed repeats rounds: its own count of steps only rises.
        self._run.define_metric("*", step_metric="round")

    def log(self, row: Row) -> None:
        """Send the row's numbers."""
        self._run.log({"round": row["round"], **scalars(row)})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send the summary, and end the run."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if failure(summary) is None else 1)


class MLflow:
    """A run of MLflow, at ``MLFLOW_TRACKING_URI``.

    Without it, all runs of an ``output-dir`` share ``mlflow.db`` there.
    """

    def __init__(self) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._make, self._metric, self._param = MlflowClient, Metric, Param

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Begin a run with the folder's name, or go on with it."""
        store = f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"
        self._client = self._make(os.environ.get("MLFLOW_TRACKING_URI") or store)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = (
            known.experiment_id if known else self._client.create_experiment(name)
        )
        runs = self._client.search_runs(
            [experiment], f"attributes.run_name = '{folder.name}'"
        )
        if history and runs:
            self._run = runs[0].info.run_id
            return
        run = self._client.create_run(experiment, run_name=folder.name)
        self._run = run.info.run_id
        params = [self._param(k, str(v)) for k, v in config.to_dict().items()]
        self._client.log_batch(self._run, params=params)

    def log(self, row: Row) -> None:
        """Send the row's numbers, with the round as their step."""
        self._send(scalars(row), row["round"])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Send the summary's numbers as ``summary/...``, and end the run."""
        self._send(scalars({"summary": summary}), 0)
        self._client.set_tag(self._run, "ended", str(summary["ended"]))
        status = "FINISHED" if failure(summary) is None else "FAILED"
        self._client.set_terminated(self._run, status)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(k, v, now, step) for k, v in values.items()]
        self._client.log_batch(self._run, metrics=metrics)


TRACKERS: Mapping[str, Callable[[], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Trackers by name, which is that of the extra to be installed, too."""


class Trackers:
    """The trackers of a run, none of which can end it once it goes on."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    @classmethod
    def of(cls, names: str) -> Trackers:
        """Make the trackers that the key ``trackers`` names.

        Raises
        ------
        TrackerError
            If the package of one is not installed.
        """
        made: dict[str, Tracker] = {}
        for name in listed(names):
            try:
                made[name] = TRACKERS[name]()
            except ImportError as error:
                raise TrackerError(
                    f"trackers has {name!r}, but its package is not installed "
                    f"({error}): pip install 'flasc-flwr[{name}]'"
                ) from None
        return cls(made)

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Start all of them.

        Raises
        ------
        TrackerError
            If one cannot be started.
        """
        for name, tracker in self._trackers.items():
            try:
                tracker.start(config, folder, history)
            except Exception as error:
                self._trackers.clear()
                raise TrackerError(
                    f"tracker {name!r} cannot be started: {error!r}"
                ) from error

    def log(self, row: Row) -> None:
        """Tell all of them of a round."""
        self._tell(lambda tracker: tracker.log(row))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell all of them that the run ended, and how."""
        self._tell(lambda tracker: tracker.finish(summary))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                say(tracker)
            except Exception as error:
                # A server that is away would hold up every further round.
                del self._trackers[name]
                log(WARNING, "Tracker %r failed and is told no more: %r", name, error)
