"""A model with an adapter of any size, which fits on a laptop.

The backbone is layers of 4,096 x 4,096 that share one weight, so that its adapters have
the shapes that a language model of 7 billion parameters gives them.
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

HIDDEN, RANK = 4096, 32


class Backbone(torch.nn.Module):
    """Layers that share one weight."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        with torch.device("meta"):
            made = [torch.nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(layers)]
        weight = torch.nn.Parameter(torch.zeros(HIDDEN, HIDDEN), requires_grad=False)
        for layer in made:
            layer.weight = weight
        self.layers = torch.nn.ModuleList(made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def adapter(parameters: int, device: str) -> Any:
    """Return a model with an adapter of about so many parameters."""
    torch.manual_seed(0)
    layers = max(1, round(parameters / (2 * HIDDEN * RANK)))
    lora = LoraConfig(r=RANK, lora_alpha=64, target_modules=r"layers\.\d+")
    return get_peft_model(Backbone(layers), lora).to(device)
