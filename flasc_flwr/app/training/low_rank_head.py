"""A head of low rank: each linear layer of it as two smaller ones, both trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """``up(down(x))``: a linear layer of a rank, with bias if it had one.

    Starts as close to the layer that it takes the place of as its rank allows.

    Parameters
    ----------
    linear : nn.Linear
        The layer, of shape (outputs, inputs).
    rank : int
        The rank r: ``down`` has shape (r, inputs), ``up`` (outputs, r).
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        like = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.in_features, self.out_features = inputs, outputs
        self.down = nn.Linear(inputs, rank, bias=False, **like)
        self.up = nn.Linear(rank, outputs, bias=linear.bias is not None, **like)
        with torch.no_grad():
            u, s, v = torch.linalg.svd(linear.weight.float(), full_matrices=False)
            root = s[:rank].sqrt()
            self.down.weight.copy_(root[:, None] * v[:rank])
            self.up.weight.copy_(u[:, :rank] * root)
            if linear.bias is not None:
                self.up.bias.copy_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs, shape (..., outputs)."""
        # The backbone may be of another precision.
        outputs: Tensor = self.up(self.down(x.to(self.down.weight.dtype)))
        return outputs

    @torch.no_grad()
    def dense(self) -> nn.Linear:
        """Return the layer as one, which computes the same."""
        bias = self.up.bias
        like = {"dtype": self.up.weight.dtype, "device": self.up.weight.device}
        linear = nn.Linear(
            self.in_features, self.out_features, bias is not None, **like
        )
        linear.weight.copy_(self.up.weight @ self.down.weight)
        if bias is not None:
            linear.bias.copy_(bias)
        # Trained are its factors.
        return linear.requires_grad_(False)


def factor_head(model: nn.Module, head: list[str], rank: int) -> None:
    """Put the linear layers of a head in two factors, where these are smaller.

    Parameters
    ----------
    model : nn.Module
        The model; changed in place.
    head : list[str]
        Full names of the modules that are trained fully.
    rank : int
        The rank, at least 1.

    Raises
    ------
    ValueError
        If no layer would become smaller.
    """
    found, largest = False, 0
    for name, module in list(model.named_modules()):
        inside = any(name == one or name.startswith(f"{one}.") for one in head)
        if not inside or type(module) is not nn.Linear:
            continue
        outputs, inputs = module.weight.shape
        largest = max(largest, (outputs * inputs - 1) // (outputs + inputs))
        if rank * (outputs + inputs) < outputs * inputs:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LowRankLinear(module, rank))
            found = True
    if not found:
        most = f"at most {largest}" if largest else "0"
        named = ", ".join(head) or "no modules"
        raise ValueError(
            f"head-rank must be {most} for this head ({named}), whose linear layers "
            f"would not get smaller, got {rank}"
        )


@contextmanager
def dense_heads(model: nn.Module) -> Iterator[None]:
    """Let a model have its head's layers as one each, as its architecture has them."""
    factored = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, LowRankLinear)
    ]
    for parent, name, child in factored:
        parent._modules[name] = child.dense()
    try:
        yield
    finally:
        for parent, name, child in factored:
            parent._modules[name] = child
