"""Server optimizers that scale each entry's step by its own history: Adam's family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.optimizers.optimizer import (
    BETA,
    LEARNING_RATE,
    RATE_HELP,
    Moment,
    OptimizerState,
    blend,
)
from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting

_ADDED = number("[1e-19, 1e19]")
"""What may be added to a denominator: float32 has its square. The square of a smaller
gradient is 0 there, and divided by less, the step would be huge, infinite or NaN."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW with PyTorch's semantics, as FLASC's code uses it on the server.

    The defaults are PyTorch's, except for the learning rate.

    Bias-corrected moments, epsilon outside the square root, and decoupled weight
    decay, which acts on every coordinate every round (Loshchilov & Hutter, 2019,
    Algorithm 2; ``torch.optim.AdamW``).
    """

    learning_rate: float = setting(
        0.01, LEARNING_RATE, RATE_HELP, key="server-learning-rate"
    )
    beta_1: float = setting(0.9, BETA, "decay of the first moment")
    beta_2: float = setting(0.999, BETA, "decay of the second moment")
    epsilon: float = setting(1e-8, _ADDED, "added to the denominator")
    weight_decay: float = setting(0.01, number("[0, inf)"), "decoupled weight decay")

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def init(self, size: int) -> OptimizerState:
        """Return zero moments."""
        return OptimizerState(0, {name: np.zeros(size, np.float32) for name in "mv"})

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return one AdamW step."""
        count = state.step + 1
        m = blend(state.moments["m"], gradient, self.beta_1)
        v = blend(state.moments["v"], gradient * gradient, self.beta_2)
        scale = self.learning_rate / (1 - self.beta_1**count)
        root = np.sqrt(v, dtype=np.float32) / np.float32(
            (1 - self.beta_2**count) ** 0.5
        )
        vector = vector * np.float32(1 - self.learning_rate * self.weight_decay)
        move = np.float32(scale) * m / (root + np.float32(self.epsilon))
        stepped = np.subtract(vector, move, dtype=np.float32)
        return stepped, OptimizerState(count, {"m": m, "v": v})


SecondMoment = Callable[[Moment, Moment, float], Moment]


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptimizer:
    """FedAdam, FedYogi and FedAdagrad (Reddi et al., 2021, Algorithm 2).

    ``m = b1 m + (1 - b1) D``, a second moment `v` by `second_moment`, and
    ``x + lr m / (sqrt(v) + tau)``, where D is the mean update. No bias correction;
    `v` starts at tau squared.
    """

    second_moment: SecondMoment
    learning_rate: float = setting(
        0.01, LEARNING_RATE, RATE_HELP, key="server-learning-rate"
    )
    beta_1: float = setting(0.9, BETA, "decay of the first moment")
    beta_2: float = setting(0.99, BETA, "decay of the second moment")
    tau: float = setting(1e-3, _ADDED, "added to the denominator")

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def init(self, size: int) -> OptimizerState:
        """Return the moments before the first step."""
        m = np.zeros(size, np.float32)
        return OptimizerState(0, {"m": m, "v": np.full(size, self.tau**2, np.float32)})

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return one step of Algorithm 2."""
        m = blend(state.moments["m"], gradient, self.beta_1)
        v = self.second_moment(state.moments["v"], gradient * gradient, self.beta_2)
        direction = m / (np.sqrt(v, dtype=np.float32) + np.float32(self.tau))
        move = np.float32(self.learning_rate) * direction
        stepped = np.subtract(vector, move, dtype=np.float32)
        return stepped, OptimizerState(state.step + 1, {"m": m, "v": v})


def adagrad(v: Moment, square: Moment, beta: float) -> Moment:
    """Return the sum of squares."""
    return v + square


def yogi(v: Moment, square: Moment, beta: float) -> Moment:
    """Return ``v`` moved towards the squares by steps of their size."""
    sign: Moment = np.sign(v - square)
    return v - np.float32(1 - beta) * square * sign
