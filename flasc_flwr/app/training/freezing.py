"""Freezing entries of an adapter while it is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from flasc_flwr.app.training.lora import Model, adapter_tensors


class Freezer:
    """A context in which some entries of the adapter do not change.

    Their gradients are set to zero before every step, as in FLASC's code
    (``grad *= M``), and their values are restored after it, since an optimizer may
    change entries without a gradient (AdamW decays them). Tensors without a trainable
    entry get ``requires_grad = False``.

    Parameters
    ----------
    model : Model
        The model, with its initial values.
    trainable : Mapping[str, NDArray[np.bool_]] or None
        Mask of each adapter tensor, by PEFT's names; None freezes nothing.
    """

    def __init__(
        self, model: Model, trainable: Mapping[str, NDArray[np.bool_]] | None
    ) -> None:
        self._held: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]] = []
        self._frozen: list[torch.nn.Parameter] = []
        if trainable is None:
            return
        for name, parameter in adapter_tensors(model).items():
            mask = trainable[name]
            if not mask.any():
                self._frozen.append(parameter)
            elif not mask.all():
                device_mask = torch.from_numpy(mask).to(parameter.device)
                self._held.append((parameter, device_mask, parameter.detach().clone()))

    def __enter__(self) -> Freezer:
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        return self

    def __exit__(self, *error: object) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def before_step(self) -> None:
        """Zero the gradients of frozen entries."""
        for parameter, mask, _ in self._held:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self) -> None:
        """Restore the frozen entries."""
        for parameter, mask, start in self._held:
            parameter.copy_(torch.where(mask, parameter, start))
