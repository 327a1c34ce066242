"""Local training and evaluation on one client's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel

from flasc_flwr.config import RunConfig

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
    """

    examples: int
    loss: float
    accuracy: float
    steps: int = 0


def train(
    model: PeftModel, examples: Examples, config: RunConfig, *, seed: int
) -> Outcome:
    """Train the whole adapter, densely, for ``local-epochs`` over `examples`.

    A fresh optimizer each time: SGD with momentum 0.9 and no weight decay, as in
    FLASC's code, or AdamW. Dropout acts in the adapter alone and the backbone stays
    in evaluation mode, as there.

    Parameters
    ----------
    model : PeftModel
        Trained in place.
    examples : Examples
        The client's examples.
    config : RunConfig
        Optimizer, learning rate, epochs and batch size.
    seed : int
        Seed of the shuffling and of dropout.

    Raises
    ------
    ValueError
        If there is no example.
    """
    count = len(examples["labels"])
    if count == 0:
        raise ValueError("this client has no training examples")
    _adapter_in_train_mode(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if config.client_optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=config.client_learning_rate, momentum=0.9
        )
    else:
        optimizer = torch.optim.AdamW(parameters, lr=config.client_learning_rate)
    loss = right = 0.0
    steps = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(config.local_epochs):
            order = torch.randperm(count)
            for batch in _batches(examples, order, config.batch_size):
                optimizer.zero_grad()
                output = model(**batch)
                output.loss.backward()
                optimizer.step()
                steps += 1
                loss += output.loss.item() * len(batch["labels"])
                right += _right(output.logits, batch["labels"])
    seen = count * config.local_epochs
    return Outcome(count, loss / seen, right / seen, steps)


@torch.no_grad()
def evaluate(model: PeftModel, examples: Examples) -> Outcome:
    """Evaluate on `examples`, which must not be empty."""
    model.eval()
    count = len(examples["labels"])
    loss = right = 0.0
    for batch in _batches(examples, torch.arange(count), _EVALUATION_BATCH):
        output = model(**batch)
        loss += output.loss.item() * len(batch["labels"])
        right += _right(output.logits, batch["labels"])
    return Outcome(count, loss / count, right / count)


def _batches(
    examples: Examples, order: torch.Tensor, size: int
) -> Iterator[dict[str, torch.Tensor]]:
    for chosen in torch.split(order, size):
        yield {name: tensor[chosen] for name, tensor in examples.items()}


def _right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(-1) == labels).sum())


def _adapter_in_train_mode(model: PeftModel) -> None:
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
