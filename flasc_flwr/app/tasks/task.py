"""What a task is, and the table of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.local import EVALUATION_BATCH, Outcome, evaluate, train
from flasc_flwr.app.training.lora import Model, write_adapter
from flasc_flwr.app.training.merging import Merging
from flasc_flwr.app.training.score import Score, classes


class Data(Protocol):
    """A task's data, loaded when first asked for: a device needs its own alone."""

    @property
    def validation(self) -> Examples:
        """The server's own part, by which it may judge clients."""
        ...

    @property
    def test(self) -> Examples:
        """The held-out part, on which nothing is trained and nothing decided."""
        ...

    def partition(self, partition_id: int, num_partitions: int) -> Examples:
        """Return a simulated client's training examples."""
        ...

    def own(self, path: str) -> Examples:
        """Return a device's own training examples.

        Raises
        ------
        ValueError
            If they cannot be used, or the task takes none.
        """
        ...


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
    data : Data
        What it is trained, validated and tested on.
    score : Score
        Counts what is right.
    evaluation_batch : int
        Examples evaluated at once: what fits beside a model of the task's size.
    """

    config: RunConfig
    model: Model
    data: Data
    score: Score = classes
    evaluation_batch: int = EVALUATION_BATCH

    def train(
        self,
        examples: Examples,
        *,
        seed: int,
        trainable: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> Outcome:
        """Train on a client's examples; see :func:`.training.local.train`."""
        return train(
            self.model,
            examples,
            self.config,
            seed=seed,
            trainable=trainable,
            score=self.score,
        )

    def evaluate(self, examples: Examples) -> Outcome:
        """Evaluate on `examples`, or as many of them as ``evaluate-examples`` says."""
        some = examples.subsample(self.config.evaluate_examples, self.config.seed)
        return evaluate(
            self.model, some, self.config, self.score, self.evaluation_batch
        )

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


_HOMES = {
    "digits": "flasc_flwr.app.tasks.digits",
    "text-classification": "flasc_flwr.app.tasks.text_classification",
    "causal-lm": "flasc_flwr.app.tasks.causal_lm",
    "image-classification": "flasc_flwr.app.tasks.image_classification",
}


@lru_cache(maxsize=1)
def load_task(config: RunConfig) -> Task:
    """Build the task that a run config names, once per process."""
    task: Task = import_module(_HOMES[config.task]).load(config)
    return task
