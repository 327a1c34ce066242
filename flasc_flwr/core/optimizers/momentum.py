"""Server optimizers whose steps are proportional to the updates: SGD and momentum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.optimizers.optimizer import (
    BETA,
    LEARNING_RATE,
    RATE_HELP,
    OptimizerState,
)
from flasc_flwr.core.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Plain gradient step; with learning rate 1 it is FedAvg."""

    learning_rate: float = setting(
        1.0, LEARNING_RATE, RATE_HELP, key="server-learning-rate"
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def init(self, size: int) -> OptimizerState:
        """Return the state before the first step."""
        return OptimizerState()

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return ``x - lr * g``."""
        stepped = vector - np.float32(self.learning_rate) * gradient
        return stepped, OptimizerState(state.step + 1)


@dataclass(frozen=True, kw_only=True)
class FedAvgM:
    """Server momentum: ``v = beta v + D`` and ``x + lr v``, D the mean update.

    Steps are as concentrated as the updates: an entry that no update moves stays, but
    for the momentum that it has. A sparse difference can follow them.

    The paper's momentum is 0.9; with error feedback updates arrive late, and 0.9
    overshoots (docs/error-feedback.md).

    Hsu, Qi & Brown, 2019 (arXiv 1909.06335), section 4.3.
    """

    learning_rate: float = setting(
        1.0, LEARNING_RATE, RATE_HELP, key="server-learning-rate"
    )
    momentum: float = setting(
        0.8,
        BETA,
        "momentum of the server",
        key="server-momentum",
        used_by="the server optimizer `fedavgm`",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def init(self, size: int) -> OptimizerState:
        """Return a velocity of zero."""
        return OptimizerState(0, {"v": np.zeros(size, np.float32)})

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return one step with momentum."""
        v = np.float32(self.momentum) * state.moments["v"] - gradient
        stepped = vector + np.float32(self.learning_rate) * v
        return stepped, OptimizerState(state.step + 1, {"v": v})
