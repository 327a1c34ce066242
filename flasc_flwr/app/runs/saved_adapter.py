"""Evaluate the adapter that a run saved, without Flower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.toml_file import read_toml
from flasc_flwr.app.reporting.adapters import available_adapters
from flasc_flwr.core.printable import why

if TYPE_CHECKING:
    from flasc_flwr.app.tasks.task import Task

_SAVED = "adapter_config.json"
"""What PEFT calls the config of an adapter."""


def evaluate_adapter(folder: Path, overrides: Mapping[str, Any]) -> dict[str, float]:
    """Evaluate an adapter, or a full model, on its run's test split.

    The task is built from the run's ``config.toml``.

    Parameters
    ----------
    folder : Path
        A run folder, or an adapter's folder in it, such as ``adapter-round-0010``.
    overrides : Mapping[str, Any]
        Settings that override the run's, such as ``evaluate-examples``.

    Returns
    -------
    dict
        ``examples``, the number of test rows used, and the metrics of
        :meth:`.Task.measure`.

    Raises
    ------
    ValueError
        As :func:`trained_task`.
    """
    task = trained_task(folder, overrides)
    test = task.data.test
    used = test.subsample(task.config.evaluate_examples, task.config.seed)
    return {"examples": len(used), **task.measure(test)}


def trained_task(folder: Path, overrides: Mapping[str, Any]) -> Task:
    """Return a run's task with the adapter, or the model, that the run saved.

    Parameters
    ----------
    folder, overrides
        As for :func:`evaluate_adapter`.

    Raises
    ------
    ValueError
        If there is no run or no adapter, or the adapter does not fit the model.
    """
    adapter = folder / "adapter" if (folder / "config.toml").is_file() else folder
    settings = adapter.parent / "config.toml"
    if not settings.is_file():
        raise ValueError(
            f"{str(folder)!r} is not a run folder or an adapter in one: no config.toml "
            "in it or beside it"
        )
    if not (adapter / "config.json").is_file() | (adapter / _SAVED).is_file():
        available = available_adapters(adapter.parent)
        raise ValueError(
            f"{str(adapter)!r} has no adapter and no model; available: {available}"
        )
    config = RunConfig.parse({**read_toml(settings), **overrides})

    from flasc_flwr.app.tasks import load_task
    from flasc_flwr.app.training.export import load_for_evaluation

    if config.peft_config and config.head == "stock":
        # The run's file may be elsewhere by now.
        config = replace(config, peft_config=str(adapter.resolve() / _SAVED))
    task = load_task(replace(config, adapter="", head_rank=0))
    try:
        load_for_evaluation(task.model, adapter)
    except Exception as error:  # damaged files raise errors of many libraries
        if str(adapter) in str(error):
            raise
        raise ValueError(
            f"{str(adapter)!r} could not be loaded: {why(error)}"
        ) from error
    return task
