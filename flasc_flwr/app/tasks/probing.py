"""One small batch through a new model, before a run relies on it."""

from __future__ import annotations

import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.device import memory_advice, on_device
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.lora import Model
from flasc_flwr.core.printable import why

_LEAK = 0.01
"""Largest relative change of earlier outputs that is still rounding."""


@torch.no_grad()
def check_outputs(model: Model, batch: Batch, config: RunConfig) -> None:
    """Check that a model takes the task's inputs, and returns logits and a loss.

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
            output = model(**on_device(batch, model))
            logits, loss = output.logits.float(), output.loss.float()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"model must accept {', '.join(batch)} for task {config.task!r}, "
                f"{given}: {why(error)}"
            ) from error
    if config.task == "causal-lm":
        _check_next_tokens(logits, batch, given)
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


def _check_next_tokens(logits: torch.Tensor, batch: Batch, given: str) -> None:
    shape = tuple(batch["input_ids"].shape)
    if logits.shape[:-1] != shape:
        raise ValueError(
            f"model must return logits for each of {shape} tokens, {given}, which "
            f"returns shape {tuple(logits.shape)}"
        )
    one, other = logits[:, :-1]
    if (one - other).abs().max() > _LEAK * one.std():
        raise ValueError(
            f"model must be causal for task 'causal-lm', {given}, which reads the "
            "tokens that it should predict, as encoders do"
        )
