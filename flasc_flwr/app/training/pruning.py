"""Rank self-pruning: a client gives up components that it hardly uses (HetLoRA).

Cho et al., arXiv 2401.06432: the loss is given the size of the last components,
``||B[:, g r:]||_F ||A[g r:, :]||_F`` in each module, and where that has become smaller
than it was in what was received, the client goes on with the first ``g r``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import Model, adapter_tensors
from flasc_flwr.core.factors import modules
from flasc_flwr.core.layout import Arrays, Layout
from flasc_flwr.core.ranks import rank_of


class Pruning:
    """The last components of an adapter while it is trained.

    Parameters
    ----------
    model : Model
        The model, as it was received.
    config : RunConfig
        ``rank-pruning-decay``, g, and ``rank-pruning-penalty``, the weight in the
        loss. With g = 1 nothing is pruned.
    """

    def __init__(self, model: Model, config: RunConfig) -> None:
        tensors = adapter_tensors(model)
        layout = Layout.of({n: t.detach().cpu().numpy() for n, t in tensors.items()})
        rank = rank_of(layout)
        self.kept = rank
        self._penalty = 0.0
        self._on = 0 < self.kept < rank
        self._pairs = [
            (tensors[m.b.name], tensors[m.a.name]) for m in modules(layout) if self._on
        ]
        self._received = float(self._tail().detach())

    def penalty(self) -> torch.Tensor | float:
        """Return what is added to the loss of a step."""
        return self._penalty * self._tail() if self._on and self._penalty else 0.0

    @torch.no_grad()
    def wanted(self) -> bool:
        """Whether the last components have become smaller."""
        return self._on and float(self._tail()) < self._received

    def _tail(self) -> torch.Tensor:
        tails = [
            b[:, self.kept :].norm() * a[self.kept :].norm() for b, a in self._pairs
        ]
        return torch.stack(tails).sum() if tails else torch.zeros(())


def first_components(arrays: Mapping[str, NDArray[Any]], rank: int) -> Arrays:
    """Return an adapter's arrays cut to their first components."""
    cut = dict(arrays)
    for module in modules(Layout.of(arrays)):
        cut[module.a.name] = arrays[module.a.name][:rank]
        cut[module.b.name] = arrays[module.b.name][:, :rank]
    return cut
