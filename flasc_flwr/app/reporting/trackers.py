"""Trackers: report a run to TensorBoard, Weights & Biases, MLflow and others.

A tracker is a convenience, since the run's folder holds everything: one that cannot be
started stops the run before any client is contacted; one that fails later is disabled,
and the run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.services import (
    MLflow,
    Row,
    TensorBoard,
    Tracker,
    WeightsAndBiases,
)
from flasc_flwr.core.ranges import listed
from flasc_flwr.flower.compat import log

OWN_CLASS: Mapping[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Trackers that need more than accelerate's class; each has an extra of its name."""


class TrackerError(RuntimeError):
    """A tracker that cannot be used: which one, why, and what to do."""


class Trackers:
    """The trackers of a run, none of which can stop it once it has started."""

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
                made[name] = OWN_CLASS.get(name, Tracker)(name)
            except ImportError as error:
                package = f"'flasc-flwr[{name}]'" if name in OWN_CLASS else name
                raise TrackerError(
                    f"tracker {name!r}: its package is not installed ({error}); "
                    f"run pip install {package}"
                ) from None
        return cls(made)

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Start all trackers.

        Parameters
        ----------
        config : RunConfig
            The settings of the run.
        folder : Path
            Its folder.
        history : Sequence[Mapping[str, Any]]
            Its rounds so far, if it is resumed; empty for a new run.

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
                    f"tracker {name!r} could not be started: {error!r}"
                ) from error

    def log(self, row: Row) -> None:
        """Log a round's row of the history to all trackers."""
        self._each(lambda tracker: tracker.log(row))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the summary to all trackers, and close them."""
        self._each(lambda tracker: tracker.finish(summary))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                # An unreachable server would delay every further round.
                del self._trackers[name]
                log(WARNING, "Tracker %s failed and was disabled: %r", name, error)
