"""Local training and evaluation on one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flasc_flwr.config import RunConfig
from flasc_flwr.training.freezing import Freezer
from flasc_flwr.training.lora import Model
from flasc_flwr.training.pruning import Pruning

Examples = Mapping[str, torch.Tensor]
"""Model inputs by name, ``labels`` among them; the first axis counts examples."""

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """What local training or an evaluation gave.

    Attributes
    ----------
    examples : int
        Number of examples seen.
    loss : float
        Mean loss over the examples; in training, over all epochs.
    accuracy : float
        Fraction of examples classified rightly; in training, while it went on.
    steps : int
        Optimizer steps taken.
    pruned_to : int, optional
        The rank that the client came down to.
    """

    examples: int
    loss: float
    accuracy: float
    steps: int = 0
    pruned_to: int | None = None


def train(
    model: Model,
    examples: Examples,
    config: RunConfig,
    *,
    seed: int,
    trainable: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Outcome:
    """Train the adapter, densely, for ``local-epochs`` over `examples`.

    A fresh optimizer each time: SGD with momentum 0.9 and no weight decay, as in
    FLASC's code, or AdamW. Dropout acts in the adapter alone and the backbone stays
    in evaluation mode, as there.

    Parameters
    ----------
    model : Model
        Trained in place.
    examples : Examples
        The client's examples.
    config : RunConfig
        Optimizer, learning rate, epochs and batch size.
    seed : int
        Seed of the shuffling and of dropout.
    trainable : Mapping[str, NDArray[np.bool_]], optional
        Masks of the entries that may change, by PEFT's names; by default all may.

    Raises
    ------
    ValueError
        If there is no example.
    """
    count = len(examples["labels"])
    if count == 0:
        raise ValueError("this client has no training examples")
    _adapter_in_train_mode(model)
    pruning = Pruning(model, config)
    loss = right = 0.0
    steps = 0
    with Freezer(model, trainable) as freezer, torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = _optimizer(model, config)
        for _ in range(config.local_epochs):
            order = torch.randperm(count)
            for batch in _batches(examples, order, config.batch_size):
                optimizer.zero_grad()
                output = model(**batch)
                (output.loss + pruning.penalty()).backward()
                freezer.before_step()
                optimizer.step()
                freezer.after_step()
                steps += 1
                loss += output.loss.item() * len(batch["labels"])
                right += _right(output.logits, batch["labels"])
    seen = count * config.local_epochs
    pruned_to = pruning.kept if pruning.wanted() else None
    return Outcome(count, loss / seen, right / seen, steps, pruned_to)


@torch.no_grad()
def evaluate(model: Model, examples: Examples) -> Outcome:
    """Evaluate on `examples`, which must not be empty."""
    model.eval()
    count = len(examples["labels"])
    loss = right = 0.0
    for batch in _batches(examples, torch.arange(count), _EVALUATION_BATCH):
        output = model(**batch)
        loss += output.loss.item() * len(batch["labels"])
        right += _right(output.logits, batch["labels"])
    return Outcome(count, loss / count, right / count)


def _optimizer(model: Model, config: RunConfig) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.client_optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.client_learning_rate, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=config.client_learning_rate)


def _batches(
    examples: Examples, order: torch.Tensor, size: int
) -> Iterator[dict[str, torch.Tensor]]:
    for chosen in torch.split(order, size):
        yield {name: tensor[chosen] for name, tensor in examples.items()}


def _right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(-1) == labels).sum())


def _adapter_in_train_mode(model: Model) -> None:
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
