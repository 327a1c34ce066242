"""Local training and evaluation on one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from torch.nn.functional import cross_entropy

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.client_optimizer import ClientOptimizer
from flasc_flwr.app.training.device import (
    autocast,
    memory_advice,
    on_device,
    training_attention,
)
from flasc_flwr.app.training.examples import Batch, Examples
from flasc_flwr.app.training.freezing import Freezer
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.recomputing import without_cache
from flasc_flwr.app.training.score import (
    IGNORED,
    Count,
    Score,
    next_tokens,
    single_label,
)
from flasc_flwr.app.training.token_loss import token_loss
from flasc_flwr.app.training.tuners.build import train_mode, tuner_of

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
    predictions : int
        Number of predictions that the loss is a mean over.
    """

    examples: int
    loss: float
    accuracy: float
    steps: int = 0
    predictions: int = 0


def train_model(
    model: Model,
    examples: Examples,
    config: RunConfig,
    *,
    seed: int,
    current: int = 1,
    trainable: Mapping[str, NDArray[np.bool_]] | None = None,
    score: Score = single_label,
) -> Outcome:
    """Train the adapter for ``local-epochs`` or ``max-steps``, whichever ends first.

    The optimizer is new in each call; by default it is SGD with momentum 0.9, as in
    FLASC's code. As there, dropout is only in the adapter, and the backbone stays in
    evaluation mode.

    The gradient of a step is that of the mean loss over all predictions of its batches:
    with ``gradient-accumulation``, batches with more tokens count for more.

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
    current : int
        The round, from 1, for the schedule of the learning rate.
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
    with (
        Freezer(model, trainable) as freezer,
        memory_advice(),
        without_cache(model),
        training_attention(config, model),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(seed)
        optimizer = ClientOptimizer(model, config, current)
        # islice takes None for "all".
        for batches in islice(_steps(len(examples), config), config.max_steps or None):
            optimizer.zero_grad()
            losses: torch.Tensor | int = 0
            for chosen in batches:
                batch = on_device(examples.batch(chosen, training=True), model)
                with autocast(config, model):
                    loss, count = loss_of(model, batch, score)
                total.add(loss, count)
                several = len(batches) > 1
                (loss * count.losses if several else loss).backward()  # type: ignore[no-untyped-call]
                losses = losses + count.losses
                # The next batch's activations need the memory of these.
                del loss
            freezer.before_step()
            optimizer.step(losses if several else None)
            freezer.after_step()
            total.steps += 1
    return total.outcome(len(examples))


def _steps(examples: int, config: RunConfig) -> Iterator[Sequence[torch.Tensor]]:
    """Yield the batches of each step as numbers of examples, shuffled in each epoch."""
    for _ in range(config.local_epochs):
        batches = torch.split(torch.randperm(examples), config.batch_size)
        for first in range(0, len(batches), config.gradient_accumulation):
            yield batches[first : first + config.gradient_accumulation]


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
    with memory_advice(), without_cache(model):
        for chosen in torch.split(torch.arange(len(examples)), batch_size):
            batch = on_device(examples.batch(chosen), model)
            with autocast(config, model):
                loss, count = loss_of(model, batch, score)
            total.add(loss, count)
            total.steps += 1
    return total.outcome(len(examples))


def loss_of(model: Model, batch: Batch, score: Score) -> tuple[torch.Tensor, Count]:
    """Return a batch's mean loss, and the counts of its score.

    A mixture of experts may add a loss of its router. That is trained with, and is no
    part of an evaluation: its perplexity would not be that of the tokens.
    """
    if score is next_tokens and (lean := token_loss(model, batch)):
        return lean
    output, loss = model(**batch), None
    if getattr(output, "aux_loss", None) is not None and not torch.is_grad_enabled():
        following = batch["labels"][:, 1:]
        logits = output.logits[:, :-1].flatten(0, 1).float()
        loss = cross_entropy(logits, following.flatten(), ignore_index=IGNORED)
    return (
        output.loss if loss is None else loss,
        score(output.logits.detach(), batch["labels"]),
    )


class _Total:
    """Sums of losses and scores over batches, without waiting for the device."""

    def __init__(self) -> None:
        self.steps = 0
        self._loss: torch.Tensor | float = 0.0
        self._losses: torch.Tensor | int = 0
        self._right: torch.Tensor | int = 0
        self._of: torch.Tensor | int = 0

    def add(self, loss: torch.Tensor, count: Count) -> None:
        self._loss = self._loss + loss.detach().float() * count.losses
        self._losses = self._losses + count.losses
        self._right = self._right + count.right
        self._of = self._of + count.of

    def outcome(self, examples: int) -> Outcome:
        return Outcome(
            examples,
            float(self._loss) / float(self._losses),
            float(self._right) / max(1.0, float(self._of)),
            self.steps,
            int(self._losses),
        )


def _adapter_in_train_mode(model: Model, config: RunConfig) -> None:
    model.eval()
    if tuner_of(model):
        train_mode(model)
    if config.lora_dropout == 0:
        return
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
        elif config.use_dora and isinstance(module, LoraLayer):
            # PEFT's DoRA asks the layer, and not its dropout. Its base stays as it is.
            module.training = True  # type: ignore[attr-defined]
