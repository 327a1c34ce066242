"""One small batch through a new model, before a run relies on it."""

from __future__ import annotations

from logging import WARNING
from typing import Any

import torch
from peft import PeftModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.task import LANGUAGE_TASKS
from flasc_flwr.app.training.device import memory_advice, on_device
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.recomputing import without_cache
from flasc_flwr.app.training.token_loss import check_parts
from flasc_flwr.core.printable import why
from flasc_flwr.flower.compat import log

_LEAK = 0.01
"""Largest relative change of earlier outputs that is still rounding."""


def check_outputs(model: Model, batch: Batch, config: RunConfig) -> None:
    """Check that a model can be trained on the task's inputs: its logits and its loss.

    Parameters
    ----------
    model : Model
        The model; it is left in evaluation mode.
    batch : Batch
        A few inputs with their labels. Of a language model: two texts of equal length
        that differ in their last token only.
    config : RunConfig
        Which task and model.

    Raises
    ------
    ValueError
        If the model does not accept the inputs, its outputs have another shape or are
        not finite, or a language model sees the tokens that it should predict.
    """
    given = f"got {config.model!r} ({model.config.model_type})"
    model.eval()
    with memory_advice():
        try:
            logits, loss = _outputs(model, on_device(batch, model))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"model must accept {', '.join(batch)} for task {config.task!r}, "
                f"{given}: {why(error)}"
            ) from error
    if config.task in LANGUAGE_TASKS:
        _check_next_tokens(logits, batch, config.task, given)
        if not config.compile:
            with without_cache(model):
                check_parts(model, on_device(batch, model))
    elif logits.shape != (len(batch["labels"]), model.config.num_labels):
        raise ValueError(
            f"model must return one logit per class ({model.config.num_labels}), "
            f"{given}, which returns shape {tuple(logits.shape)}"
        )
    if not (torch.isfinite(logits).all() and torch.isfinite(loss)):
        raise ValueError(
            f"model must have finite outputs, {given}, which returns NaN or infinity: "
            "its weights may be damaged"
        )


def _outputs(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and loss; of a model with an adapter, after a backward pass."""
    # The gradients of a whole model would need as much memory as the model.
    backward = isinstance(model, PeftModel)
    with torch.set_grad_enabled(backward), without_cache(model):
        output = model(**batch)
        if backward:
            output.loss.backward()
            _say_unused(model)
            model.zero_grad(set_to_none=True)
    return output.logits.detach().float(), output.loss.detach().float()


def _say_unused(model: Model) -> None:
    """Log which tensors of the adapter have no part in the loss."""
    unused = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    if unused:
        log(
            WARNING,
            "%d tensors of the adapter are never trained, such as %s: name others in "
            "lora-targets",
            len(unused),
            unused[0],
        )


def two_texts(tokenizer: Any) -> Batch:
    """Return two texts of three tokens that differ in their last one."""
    special = set(tokenizer.all_special_ids)
    usable = (n for n in tokenizer.get_vocab().values() if n not in special)
    one, other = sorted(usable)[:2]
    tokens = torch.tensor([[one, one, one], [one, one, other]])
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens,
    }


def _check_next_tokens(
    logits: torch.Tensor, batch: Batch, task: str, given: str
) -> None:
    shape = tuple(batch["input_ids"].shape)
    if logits.shape[:-1] != shape:
        raise ValueError(
            f"model must return logits for each of {shape} tokens, {given}, which "
            f"returns shape {tuple(logits.shape)}"
        )
    one, other = logits[:, :-1]
    if (one - other).abs().max() > _LEAK * one.std():
        raise ValueError(
            f"model must be causal for task {task!r}, {given}, which reads the "
            "tokens that it should predict, as encoders do"
        )
