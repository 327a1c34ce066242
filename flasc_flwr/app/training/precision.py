"""Precision: a backbone in bfloat16 or float32, and what is trained in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.core.methods.method import Tunes


def kept_precision(config: RunConfig) -> torch.dtype | None:
    """Return the precision of the frozen backbone; None for that it was saved in.

    Raises
    ------
    ValueError
        If it is bfloat16 and the method changes the backbone: most updates are smaller
        than what bfloat16 can tell apart.
    """
    method = config.compose()
    given = config.backbone_precision
    if method.tunes == Tunes.FULL or method.merges:
        if given == "bfloat16":
            raise ValueError(
                "backbone-precision must be 'auto' or 'float32' with method "
                f"{config.method!r}, which changes the backbone, got 'bfloat16'"
            )
        return torch.float32
    return None if given == "auto" else getattr(torch, given)


def keep_at(model: nn.Module, wanted: torch.dtype | None) -> None:
    """Cast weights that a model was loaded with to the precision of the backbone.

    Only to float32: transformers loads in bfloat16 itself, and knows which tensors must
    not be. Without a wanted precision, bfloat16 stays; float16 never does, since its
    range is too small to train with.
    """
    odd = {torch.float16, torch.float64}
    if wanted == torch.float32:
        odd.add(torch.bfloat16)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dtype in odd:
            tensor.data = tensor.data.float()


def train_in_float32(model: PreTrainedModel, names: list[str]) -> None:
    """Make some modules float32 that stand in a backbone of another precision.

    Parameters
    ----------
    model : PreTrainedModel
        The backbone with its head.
    names : list[str]
        Full names of the modules that are trained fully. PEFT copies them.
    """
    outside = model.dtype
    if outside == torch.float32:
        return
    for name in names:
        for module in _leaves(model.get_submodule(name)):
            module.float()
            module.register_forward_pre_hook(_float_inputs, with_kwargs=True)
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _m, _i, out: out.to(outside))


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that have parameters of their own."""
    for inner in module.modules():
        if any(True for _ in inner.parameters(recurse=False)):
            yield inner


def _float_inputs(_: nn.Module, inputs: Any, more: Any) -> Any:
    def cast(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.float() if floating else value

    return tuple(map(cast, inputs)), {name: cast(v) for name, v in more.items()}
