"""A task: a model and its data; and the table of tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from math import exp, inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training import PeftModel
from flasc_flwr.app.training.cores import empty_cores, factor_names, write_bases
from flasc_flwr.app.training.device import return_free_memory
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.gradient_bases import (
    MEASURED_EXAMPLES,
    gradient_bases,
    ranks_of,
)
from flasc_flwr.app.training.local import (
    EVALUATION_BATCH,
    Outcome,
    evaluate_model,
    train_model,
)
from flasc_flwr.app.training.lora import Model, write_adapter
from flasc_flwr.app.training.merging import Merging
from flasc_flwr.app.training.score import Score, next_tokens, single_label
from flasc_flwr.core.layout import Arrays


class Data(Protocol):
    """A task's data, each part loaded at its first use."""

    @property
    def validation(self) -> Examples:
        """The server's own part, to choose between clients."""
        ...

    @property
    def test(self) -> Examples:
        """The held-out part, never used to train or to choose."""
        ...

    def partition(self, partition_id: int, num_partitions: int) -> Examples:
        """Return a simulated client's training examples."""
        ...

    def local_examples(self, path: str) -> Examples:
        """Return a device's own training examples.

        Raises
        ------
        ValueError
            If they cannot be used, or the task does not accept them.
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
        Frozen backbone with a trainable adapter in its seeded initial state; with some
        methods other parameters are trainable. There is one per process; between
        clients, only tensors are overwritten.
    data : Data
        Data to train, validate and test on.
    score : Score
        Counts correct predictions.
    evaluation_batch : int
        Examples evaluated at once: as many as fit in memory with such a model.
    parts : Callable[[Examples], Mapping[str, Examples]], optional
        Splits test examples into parts by name, which are also measured each.
    answering : Callable[[Model], list[dict[str, Any]]], optional
        Lets the model answer test prompts, and returns a row for each.
    """

    config: RunConfig
    model: Model
    data: Data
    score: Score = single_label
    evaluation_batch: int = EVALUATION_BATCH
    parts: Callable[[Examples], Mapping[str, Examples]] | None = None
    answering: Callable[[Model], list[dict[str, Any]]] | None = None

    def train(
        self,
        examples: Examples,
        *,
        seed: int,
        current: int = 1,
        trainable: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> Outcome:
        """Train on a client's examples; see :func:`.training.local.train_model`."""
        return train_model(
            self.model,
            examples,
            self.config,
            seed=seed,
            current=current,
            trainable=trainable,
            score=self.score,
        )

    def measure_bases(
        self, arrays: Mapping[str, NDArray[Any]], examples: Examples, *, seed: int
    ) -> tuple[Arrays, Outcome]:
        """Measure bases of cores; see :mod:`.training.gradient_bases`.

        Parameters
        ----------
        arrays : Mapping[str, NDArray]
            The adapter's head, and arrays of any values for B and A of each module.
        examples : Examples
            The client's examples.
        seed : int
            Which of them are used.

        Returns
        -------
        Arrays
            The head as it was, and the client's B and A.
        Outcome
            Loss and accuracy on the examples used, before any training.

        Raises
        ------
        ValueError
            If the arrays are not those of this model.
        """
        ranks, found = ranks_of(self.model, arrays), empty_cores(self.model)
        factors = {factor for name in found for factor in factor_names(name)}
        head = {name: v for name, v in arrays.items() if name not in factors}
        self.load_adapter(found | head)
        some = examples.subsample(MEASURED_EXAMPLES, seed)
        bases = gradient_bases(self.model, some, self.config, self.score, ranks)
        arranged = {name: (bases | head)[name] for name in arrays}
        return arranged, self.evaluate(some)

    def evaluate(self, examples: Examples) -> Outcome:
        """Evaluate on `examples`, or on ``evaluate-examples`` of them."""
        some = examples.subsample(self.config.evaluate_examples, self.config.seed)
        return evaluate_model(
            self.model, some, self.config, self.score, self.evaluation_batch
        )

    def measure(self, examples: Examples) -> dict[str, float]:
        """Evaluate on `examples` as :meth:`evaluate`, and return all metrics by name.

        These are ``accuracy`` and ``loss``; of a language model also ``perplexity``,
        exp(loss); and where examples have parts, the same of each part, with ``_`` and
        its name at the end.
        """
        some = examples.subsample(self.config.evaluate_examples, self.config.seed)
        parts = self.parts(some) if self.parts else {}
        if len(parts) < 2:
            whole = self.evaluate(some)
            named = dict.fromkeys(parts, whole)
        else:
            named = {name: self.evaluate(part) for name, part in parts.items()}
            whole = together(named.values())
        metrics = self._metrics(whole)
        for name, outcome in named.items():
            metrics |= {f"{k}_{name}": v for k, v in self._metrics(outcome).items()}
        return metrics

    def _metrics(self, outcome: Outcome) -> dict[str, float]:
        metrics = {"accuracy": outcome.accuracy, "loss": outcome.loss}
        if self.score is next_tokens:
            metrics["perplexity"] = _exp(outcome.loss)
        return metrics

    @property
    def scale(self) -> float:
        """The factor of the server's B A: alpha / lora-rank, or rsLoRA's."""
        return self.config.adapter_scale

    def load_adapter(
        self,
        arrays: Mapping[str, NDArray[Any]],
        merged: Mapping[str, NDArray[Any]] | None = None,
        bases: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Write a received adapter, of any rank, into the model.

        Parameters
        ----------
        arrays : Mapping[str, NDArray]
            All tensors of the adapter.
        merged : Mapping[str, NDArray], optional
            Products to merge into the backbone, in place of those merged before.
        bases : Mapping[str, NDArray], optional
            Measured bases of cores, in place of those before; none: all zero.
        """
        write_adapter(self.model, arrays, self.config)
        if self.config.compose().measures_bases:
            write_bases(self.model, bases or {})
        if self._merging:
            self._merging.apply(merged or {}, self.scale)

    @cached_property
    def _merging(self) -> Merging | None:
        return Merging(self.model) if isinstance(self.model, PeftModel) else None


def together(outcomes: Collection[Outcome]) -> Outcome:
    """Return the outcome of several evaluations as that of one."""
    predictions = sum(one.predictions for one in outcomes)

    def mean(values: Iterable[tuple[float, int]]) -> float:
        return sum(value * count for value, count in values) / predictions

    return Outcome(
        sum(one.examples for one in outcomes),
        mean((one.loss, one.predictions) for one in outcomes),
        mean((one.accuracy, one.predictions) for one in outcomes),
        sum(one.steps for one in outcomes),
        predictions,
    )


def _exp(loss: float) -> float:
    try:
        return exp(loss)
    except OverflowError:
        return inf


_MODULES = {
    "digits": "flasc_flwr.app.tasks.digits",
    "text-classification": "flasc_flwr.app.tasks.text_classification",
    "causal-lm": "flasc_flwr.app.tasks.causal_lm",
    "instruction": "flasc_flwr.app.tasks.instruction.tuning",
    "image-classification": "flasc_flwr.app.tasks.image_classification",
}


@lru_cache(maxsize=1)
def load_task(config: RunConfig) -> Task:
    """Build the task that the run config names, once per process."""
    task: Task = import_module(_MODULES[config.task]).load(config)
    return_free_memory()
    return task
