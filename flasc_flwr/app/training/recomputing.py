"""Less memory in training: layers computed again, and no cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from flasc_flwr.app.training.lora import Model

try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:  # transformers before 4.53
    GradientCheckpointingLayer = None  # type: ignore[assignment, misc]


def recompute_layers(model: PreTrainedModel) -> None:
    """Let a model's layers be computed again in the backward pass (checkpointing).

    Of each layer, only its input is kept. transformers' own switch acts in training
    mode only, and the backbone stays in evaluation mode, without dropout.

    Raises
    ------
    ValueError
        If transformers does not say what the layers of the model are.
    """
    kinds = () if GradientCheckpointingLayer is None else (GradientCheckpointingLayer,)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    if not layers:
        raise ValueError(
            f"gradient-checkpointing must be false with a {model.config.model_type!r} "
            "model, whose layers the installed transformers cannot compute again, got "
            "true"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **more)
    return checkpoint(forward, *inputs, use_reentrant=False, **more)


@contextmanager
def without_cache(model: Model) -> Iterator[None]:
    """Keep a language model from storing keys and values, which only generating uses.

    A layer that is computed again would store them twice.
    """
    configs = [model.config, model.config.get_text_config()]
    before = [getattr(config, "use_cache", None) for config in configs]
    for config, used in zip(configs, before, strict=True):
        if used:
            config.use_cache = False
    try:
        yield
    finally:
        for config, used in zip(configs, before, strict=True):
            if used:
                config.use_cache = used
