"""Merging products B A into a backbone, and removing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import Linear
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from flasc_flwr.core.merged import merged_modules, product_of


def shared(model: PeftModel) -> str | None:
    """Return the name of an adapted module whose weights another one has; or None.

    What is merged into them changes the outputs of both. Trained tokens are no such
    case: PEFT trains and merges them in both.
    """
    every = model.named_parameters(remove_duplicate=False)
    uses = Counter(id(parameter) for _, parameter in every)
    name: str
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and not isinstance(
            layer, TrainableTokensLayer
        ):
            own: torch.nn.Module = layer.get_base_layer()
            if any(uses[id(parameter)] > 1 for parameter in own.parameters()):
                return name
    return None


def require_untied(model: PeftModel, method: str) -> None:
    """Check that weights that products are merged into are of one module each.

    Raises
    ------
    ValueError
        If another module has the same.
    """
    if name := shared(model):
        raise ValueError(
            f"lora-targets must not name a module with method {method!r}, which "
            f"merges products into its weights, if others share them, got {name!r}"
        )


class Merging:
    """Merges products into a backbone; keeps its original weights to replace them.

    Parameters
    ----------
    model : PeftModel
        The model whose backbone is changed in place.
    """

    def __init__(self, model: PeftModel) -> None:
        self._model = model
        self._before: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def apply(self, merged: Mapping[str, NDArray[Any]], scale: float) -> None:
        """Set the backbone to its original weights plus ``scale`` times `merged`.

        Raises
        ------
        ValueError
            If a module is not a linear one that LoRA adapts, or a shape differs.
        """
        names = merged_modules(merged)
        for name in sorted({*self._before, *names}):
            layer = self._layer(name)
            weight = cast(torch.Tensor, layer.get_base_layer().weight)
            if name not in self._before:
                self._before[name] = weight.detach().clone()
            weight.copy_(self._before[name])
            if name in names:
                product = torch.from_numpy(product_of(merged, name)).to(weight.device)
                turned = product.T if layer.fan_in_fan_out else product
                if turned.shape != weight.shape:
                    raise ValueError(
                        f"the product for {name!r} must have shape "
                        f"{tuple(weight.shape)}, got {tuple(turned.shape)}"
                    )
                weight.add_(turned.to(weight.dtype), alpha=scale)

    def _layer(self, name: str) -> Linear:
        layer = self._model.get_submodule(name)
        if not isinstance(layer, Linear):
            raise ValueError(f"{name!r} is not a linear module that LoRA adapts")
        return layer
