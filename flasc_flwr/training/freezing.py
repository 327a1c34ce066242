"""Freezing entries of an adapter while it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from flasc_flwr.training.lora import adapter_tensors


class Freezer:
    """Holds the entries still that may not change.

    Their gradients are zero in every step, as in FLASC's code (``grad *= M``), and
    they are put back after it, whatever the optimizer does to entries without a
    gradient (AdamW decays them).

    Parameters
    ----------
    model : PeftModel
        The model, at its start.
    trainable : Mapping[str, NDArray[np.bool_]] or None
        Mask of each adapter tensor, by PEFT's names; None freezes nothing.
    """

    def __init__(
        self, model: PeftModel, trainable: Mapping[str, NDArray[np.bool_]] | None
    ) -> None:
        self._held: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]] = []
        if trainable is None:
            return
        by_place = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
        for name, tensor in adapter_tensors(model).items():
            mask = torch.from_numpy(trainable[name]).to(tensor.device)
            parameter = by_place[tensor.data_ptr()]
            self._held.append((parameter, mask, tensor.detach().clone()))

    def before_step(self) -> None:
        """Zero the gradients of frozen entries."""
        for parameter, mask, _ in self._held:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self) -> None:
        """Put the frozen entries back."""
        for parameter, mask, start in self._held:
            parameter.copy_(torch.where(mask, parameter, start))
