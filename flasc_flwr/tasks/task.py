"""What a task is, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from flasc_flwr.config import RunConfig
from flasc_flwr.training.local import Examples

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, eq=False)
class Task:
    """A model and its data.

    Attributes
    ----------
    model : PeftModel
        Frozen backbone with a trainable adapter in its seeded initial state. One
        per process: only the adapter's tensors are written between clients.
    partition : Callable[[int, int], Examples]
        Gives the training examples of a partition, from its id and the number of
        partitions.
    test : Examples
        The held-out part, on which nothing is trained.
    """

    model: PeftModel
    partition: Callable[[int, int], Examples]
    test: Examples


_HOMES = {"digits": "flasc_flwr.tasks.digits"}


@lru_cache(maxsize=1)
def load_task(config: RunConfig) -> Task:
    """Build the task that a run config names, once per process."""
    task: Task = import_module(_HOMES[config.task]).load(config)
    return task
