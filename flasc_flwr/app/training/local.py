"""Local training and evaluation on one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.device import autocast, memory_advice, on_device
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.freezing import Freezer
from flasc_flwr.app.training.lora import Model, adapter_tensors
from flasc_flwr.app.training.score import Score, single_label

EVALUATION_BATCH = 256
"""Number of examples evaluated at once, if they are small."""


@dataclass(frozen=True)
class Outcome:
    """The result of local training or of an evaluation.

    Attributes
    ----------
    examples : int
        Number of examples.
    loss : float
        Mean loss over the predictions (for a language model, over tokens); in training,
        over all steps.
    accuracy : float
        Fraction of correct predictions, by the task's score; in training, over all
        steps.
    steps : int
        Number of batches; in training, of optimizer steps.
    """

    examples: int
    loss: float
    accuracy: float
    steps: int = 0


def train_model(
    model: Model,
    examples: Examples,
    config: RunConfig,
    *,
    seed: int,
    trainable: Mapping[str, NDArray[np.bool_]] | None = None,
    score: Score = single_label,
) -> Outcome:
    """Train the adapter for ``local-epochs`` or ``max-steps``, whichever ends first.

    The optimizer is new in each call: SGD with momentum 0.9 and no weight decay, as in
    FLASC's code, or AdamW. As there, dropout is only in the adapter, and the backbone
    stays in evaluation mode.

    Parameters
    ----------
    model : Model
        Trained in place.
    examples : Examples
        The client's examples.
    config : RunConfig
        Optimizer, learning rate, epochs, steps and batch size.
    seed : int
        Seed of shuffling and dropout.
    trainable : Mapping[str, NDArray[np.bool_]], optional
        Masks of the entries to train, by PEFT's names (default: all entries).
    score : Score
        Counts correct predictions.

    Raises
    ------
    ValueError
        If there are no examples.
    """
    if len(examples) == 0:
        raise ValueError("this client has no training examples")
    _adapter_in_train_mode(model, config)
    total = _Total()
    with Freezer(model, trainable) as freezer, memory_advice(), torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = _optimizer(model, config)
        # islice takes None for "all".
        for chosen in islice(_batches(len(examples), config), config.max_steps or None):
            batch = on_device(examples.batch(chosen, training=True), model)
            optimizer.zero_grad()
            with autocast(config, model):
                output = model(**batch)
            output.loss.backward()
            freezer.before_step()
            optimizer.step()
            freezer.after_step()
            total.add(output, batch["labels"], score)
    return total.outcome(len(examples))


def _batches(examples: int, config: RunConfig) -> Iterator[torch.Tensor]:
    """Yield the numbers of each batch's examples, shuffled in every epoch."""
    for _ in range(config.local_epochs):
        yield from torch.split(torch.randperm(examples), config.batch_size)


@torch.no_grad()
def evaluate_model(
    model: Model,
    examples: Examples,
    config: RunConfig,
    score: Score = single_label,
    batch_size: int = EVALUATION_BATCH,
) -> Outcome:
    """Evaluate on `examples`, `batch_size` at once.

    Raises
    ------
    ValueError
        If there are no examples.
    """
    if len(examples) == 0:
        raise ValueError("there are no examples to evaluate on")
    model.eval()
    total = _Total()
    with memory_advice():
        for chosen in torch.split(torch.arange(len(examples)), batch_size):
            batch = on_device(examples.batch(chosen), model)
            with autocast(config, model):
                output = model(**batch)
            total.add(output, batch["labels"], score)
    return total.outcome(len(examples))


class _Total:
    """Sums of losses and scores over batches, without waiting for the device."""

    def __init__(self) -> None:
        self.steps = 0
        self._loss: torch.Tensor | float = 0.0
        self._losses: torch.Tensor | int = 0
        self._right: torch.Tensor | int = 0
        self._of: torch.Tensor | int = 0

    def add(self, output: Any, labels: torch.Tensor, score: Score) -> None:
        self.steps += 1
        count = score(output.logits.detach(), labels)
        self._loss = self._loss + output.loss.detach().float() * count.losses
        self._losses = self._losses + count.losses
        self._right = self._right + count.right
        self._of = self._of + count.of

    def outcome(self, examples: int) -> Outcome:
        return Outcome(
            examples,
            float(self._loss) / float(self._losses),
            float(self._right) / max(1.0, float(self._of)),
            self.steps,
        )


def _optimizer(model: Model, config: RunConfig) -> torch.optim.Optimizer:
    parameters = [p for p in adapter_tensors(model).values() if p.requires_grad]
    if config.client_optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.client_learning_rate, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=config.client_learning_rate)


def _adapter_in_train_mode(model: Model, config: RunConfig) -> None:
    model.eval()
    if config.lora_dropout == 0:
        return
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
