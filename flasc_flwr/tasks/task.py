"""What a task is, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

from numpy.typing import NDArray
from peft import PeftModel

from flasc_flwr.config import RunConfig
from flasc_flwr.training.local import Examples
from flasc_flwr.training.lora import Model, write_adapter
from flasc_flwr.training.merging import Merging


@dataclass(frozen=True, eq=False)
class Task:
    """A model and its data.

    Attributes
    ----------
    config : RunConfig
        What it was built from.
    model : Model
        Frozen backbone with a trainable adapter in its seeded initial state, or a
        model of which other parameters are tuned. One per process: only tensors are
        written between clients.
    partition : Callable[[int, int], Examples]
        Gives the training examples of a partition, from its id and the number of
        partitions.
    validation : Examples
        The server's own part, by which it may judge clients.
    test : Examples
        The held-out part, on which nothing is trained and nothing decided.
    """

    config: RunConfig
    model: Model
    partition: Callable[[int, int], Examples]
    validation: Examples
    test: Examples

    @property
    def scale(self) -> float:
        """What the server's B A is multiplied by: alpha / lora-rank."""
        return self.config.lora_alpha / self.config.lora_rank

    def receive(
        self,
        arrays: Mapping[str, NDArray[Any]],
        merged: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Put a received adapter on the model, of whatever rank it is.

        Parameters
        ----------
        arrays : Mapping[str, NDArray]
            The adapter, whole.
        merged : Mapping[str, NDArray], optional
            What is merged into the backbone beside it.
        """
        write_adapter(self.model, arrays, self.config)
        if self._merging:
            self._merging.apply(merged or {}, self.scale)

    @cached_property
    def _merging(self) -> Merging | None:
        return Merging(self.model) if isinstance(self.model, PeftModel) else None


_HOMES = {"digits": "flasc_flwr.tasks.digits"}


@lru_cache(maxsize=1)
def load_task(config: RunConfig) -> Task:
    """Build the task that a run config names, once per process."""
    task: Task = import_module(_HOMES[config.task]).load(config)
    return task
