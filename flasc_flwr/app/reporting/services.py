"""The services that can follow a run, through Hugging Face's accelerate.

This module adds where a run goes and how a resumed run finds its place again, and turns
off recording of the console, which shows texts that clients sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from typing import Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.summary import failure

_PROJECT = "flasc-flwr"
_MLFLOW_STORE = "MLFLOW_TRACKING_URI"

Row = Mapping[str, Any]
"""A row of the history."""


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of the history, or of a summary.

    Numbers in mappings get names such as ``ranks/4``, a list becomes its length, and
    what was not measured is left out.
    """
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            for key, number in value.items():
                found |= scalars({f"{name}/{_plain(str(key))}": number})
        elif isinstance(value, (list, tuple)):
            found[name] = len(value)
        elif isinstance(value, (int, float)) and name != "round":
            found[name] = float(value)
    return found


def _plain(name: str) -> str:
    """Return a name that every service accepts: failures are named by a reason."""
    return re.sub(r"[^\w :-]", "_", name)[:200] or "_"


class Tracker:
    """One of accelerate's trackers; a subclass adds what accelerate leaves out.

    Parameters
    ----------
    name : str
        Accelerate's name for the service, which is also the name of its package.

    Raises
    ------
    ImportError
        If the package is not installed.
    """

    def __init__(self, name: str) -> None:
        import_module(name)
        self._name = name

    def start(self, config: RunConfig, folder: Path, history: Sequence[Row]) -> None:
        """Begin, and log the run config.

        Parameters
        ----------
        config : RunConfig
            The settings of the run.
        folder : Path
            Its folder.
        history : Sequence[Mapping[str, Any]]
            Its rounds so far, if it is resumed; empty for a new run.
        """
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        # The trackers' own logger requires this state. It uses no GPU.
        PartialState(cpu=True)
        options = self._options(folder, history)
        self._tracker = LOGGER_TYPE_TO_CLASS[self._name](**options)
        self._tracker.start()
        self._log_config(config.to_dict())

    def log(self, row: Row) -> None:
        """Log the numbers of a row of the history."""
        self._tracker.log(scalars(row), step=row["round"])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the numbers of ``summary.json`` as ``summary/...``, and close."""
        self._log_summary(summary)
        self._tracker.finish()

    def _options(self, folder: Path, history: Sequence[Row]) -> dict[str, Any]:
        """Return the arguments for accelerate's class."""
        return {"run_name": _PROJECT, **_OPTIONS[self._name](folder)}

    def _log_config(self, config: Mapping[str, Any]) -> None:
        self._tracker.store_init_configuration(dict(config))

    def _log_summary(self, summary: Mapping[str, Any]) -> None:
        last = summary.get("rounds", 0)
        self._tracker.log(scalars({"summary": summary}), step=last)


class TensorBoard(Tracker):
    """Event files in the run's folder, under ``tensorboard``."""

    def _options(self, folder: Path, history: Sequence[Row]) -> dict[str, Any]:
        # TensorBoard then hides what an interrupted run wrote about later rounds.
        step = history[-1]["round"] + 1 if history else None
        where = {"run_name": "tensorboard", "logging_dir": str(folder)}
        return {**where, "purge_step": step}

    # As texts: accelerate stores a config as another run beside this one.
    def _log_config(self, config: Mapping[str, Any]) -> None:
        self._log_text("config", config)

    def _log_summary(self, summary: Mapping[str, Any]) -> None:
        self._log_text("summary", summary)

    def _log_text(self, name: str, content: Mapping[str, Any]) -> None:
        rows = [f"| {key} | {value} |" for key, value in content.items()]
        self._tracker.log({name: "\n".join(["| key | value |", "|---|---|", *rows])})


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, set up by its own environment variables.

    With ``WANDB_MODE=offline`` it stays in the run's folder, under ``wandb``.
    """

    def _options(self, folder: Path, history: Sequence[Row]) -> dict[str, Any]:
        return {
            "run_name": os.environ.get("WANDB_PROJECT", _PROJECT),
            "dir": str(folder),
            "id": folder.name,
            "name": folder.name,
            "resume": "allow",
            "settings": {"silent": True, "console": "off"},
        }

    def _log_config(self, config: Mapping[str, Any]) -> None:
        super()._log_config(config)
        self._tracker.tracker.define_metric("*", step_metric="round")

    def log(self, row: Row) -> None:
        """Log the numbers of a row of the history, with the round as one of them."""
        # A resumed run repeats rounds, but wandb's own step can only rise.
        self._tracker.log({"round": row["round"], **scalars(row)})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the summary, and end the run."""
        run = self._tracker.tracker
        run.summary.update(dict(summary))
        run.finish(exit_code=0 if failure(summary) is None else 1)


class MLflow(Tracker):
    """A run of MLflow, at ``MLFLOW_TRACKING_URI``.

    Without it, all runs of an ``output-dir`` share ``mlflow.db`` there.
    """

    def _options(self, folder: Path, history: Sequence[Row]) -> dict[str, Any]:
        self._own_store = _MLFLOW_STORE not in os.environ
        if self._own_store:
            store = folder.resolve().parent / "mlflow.db"
            os.environ[_MLFLOW_STORE] = f"sqlite:///{store}"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        self._earlier = _mlflow_run(experiment, folder.name) if history else None
        return {
            "experiment_name": experiment,
            "run_name": folder.name,
            "run_id": self._earlier,
        }

    def _log_config(self, config: Mapping[str, Any]) -> None:
        # MLflow refuses to change what a run has.
        if self._earlier is None:
            super()._log_config(config)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the summary's numbers as ``summary/...``, and end the run."""
        import mlflow

        self._log_summary(summary)
        mlflow.set_tag("ended", str(summary["ended"]))
        mlflow.end_run("FINISHED" if failure(summary) is None else "FAILED")
        if self._own_store:
            del os.environ[_MLFLOW_STORE]


def _mlflow_run(experiment: str, name: str) -> str | None:
    """Return the id of the newest MLflow run of that name; None if there is none."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if not (known := client.get_experiment_by_name(experiment)):
        return None
    runs = client.search_runs(
        [known.experiment_id], f"attributes.run_name = '{name}'", max_results=1
    )
    return str(runs[0].info.run_id) if runs else None


def _aim(folder: Path) -> dict[str, Any]:
    return {
        "run_name": folder.name,
        "logging_dir": str(folder.parent),
        "experiment": _PROJECT,
        "capture_terminal_logs": False,
        "system_tracking_interval": None,
    }


_COMET_OFF = ("auto_metric_logging", "auto_param_logging", "log_code", "parse_args")


def _comet(folder: Path) -> dict[str, Any]:
    from comet_ml import ExperimentConfig

    return {
        # The same folder is the same experiment, which a resumed run continues.
        "experiment_key": sha1(folder.name.encode()).hexdigest(),
        "experiment_config": ExperimentConfig(
            name=folder.name,
            auto_output_logging=False,
            **dict.fromkeys(_COMET_OFF, False),
        ),
    }


def _trackio(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "resume": "allow", "embed": False}


_OPTIONS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "aim": _aim,
    "comet_ml": _comet,
    "trackio": _trackio,
}
"""What accelerate's class is given beside the project, by the run's folder."""
