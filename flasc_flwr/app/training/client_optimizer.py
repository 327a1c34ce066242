"""The optimizer of a client, new in each round, and its gradient clipping."""

from __future__ import annotations

import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import Model, trained_parameters
from flasc_flwr.app.training.schedule import client_learning_rate

_ADAMW_DECAY = 0.01
"""torch's own default."""


class ClientOptimizer:
    """SGD with momentum 0.9 or AdamW, with the settings of the run config.

    Parameters
    ----------
    model : Model
        Its trainable parameters are optimized.
    config : RunConfig
        Optimizer, learning rate and schedule, weight decay, betas and clipping.
    current : int
        The round, from 1.
    """

    def __init__(self, model: Model, config: RunConfig, current: int) -> None:
        self._most = config.client_max_gradient_norm
        self._parameters = trained_parameters(model)
        rate, decay = client_learning_rate(config, current), config.client_weight_decay
        self._optimizer: torch.optim.Optimizer
        if config.client_optimizer == "sgd":
            self._optimizer = torch.optim.SGD(
                self._parameters,
                lr=rate,
                momentum=0.9,
                weight_decay=0.0 if decay == "auto" else float(decay),
            )
        else:
            self._optimizer = torch.optim.AdamW(
                self._parameters,
                lr=rate,
                betas=(config.client_beta1, config.client_beta2),
                weight_decay=_ADAMW_DECAY if decay == "auto" else float(decay),
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()

    def step(self, divisor: torch.Tensor | int | None = None) -> None:
        """Make one step along the gradients.

        Parameters
        ----------
        divisor : Tensor or int, optional
            What the gradients are divided by first (default: nothing).
        """
        if divisor is not None:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(divisor)
        if self._most:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._most)
        self._optimizer.step()
