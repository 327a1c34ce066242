"""Server optimizers: one step of the server vector along the mean update.

A step takes the server vector and a gradient, which in federated learning is the
negative mean update, and returns the new vector and the new state. An optimizer holds
only settings; everything that changes is in the state, which can be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting

Moment = NDArray[np.float32]

LEARNING_RATE = number("(0, inf)")
"""What the learning rate of a server optimizer may be."""

_BETA = number("[0, 1)")
_RATE_HELP = "learning rate of the server optimizer"


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer remembers from step to step.

    Attributes
    ----------
    step : int
        Steps taken.
    moments : dict[str, Moment]
        The moments by name, each of shape (N,).
    part_steps : dict[str, int]
        Steps taken by each part, where parts step separately.
    run_steps : int, optional
        Steps taken by the whole run, in the state of a part that has taken fewer; by
        default `step`. Schedules follow the run, bias correction the part.
    """

    step: int = 0
    moments: dict[str, Moment] = field(default_factory=dict)
    part_steps: dict[str, int] = field(default_factory=dict)
    run_steps: int | None = None


class ServerOptimizer(Protocol):
    """A server optimizer."""

    def init(self, size: int) -> OptimizerState:
        """Return the state before the first step, for vectors of length `size`."""
        ...

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return the vector and the state after one step; the inputs stay unchanged."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Plain gradient step; with learning rate 1 it is FedAvg."""

    learning_rate: float = setting(
        1.0, LEARNING_RATE, _RATE_HELP, key="server-learning-rate"
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
class AdamW:
    """AdamW with PyTorch's semantics, as FLASC's code uses it on the server.

    The defaults are PyTorch's, except for the learning rate.

    Bias-corrected moments, epsilon outside the square root, and decoupled weight
    decay, which acts on every coordinate every round (Loshchilov & Hutter, 2019,
    Algorithm 2; ``torch.optim.AdamW``).
    """

    learning_rate: float = setting(
        0.01, LEARNING_RATE, _RATE_HELP, key="server-learning-rate"
    )
    beta_1: float = setting(0.9, _BETA, "decay of the first moment")
    beta_2: float = setting(0.999, _BETA, "decay of the second moment")
    epsilon: float = setting(1e-8, number("(0, inf)"), "added to the denominator")
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
        m = _blend(state.moments["m"], gradient, self.beta_1)
        v = _blend(state.moments["v"], gradient * gradient, self.beta_2)
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
        0.01, LEARNING_RATE, _RATE_HELP, key="server-learning-rate"
    )
    beta_1: float = setting(0.9, _BETA, "decay of the first moment")
    beta_2: float = setting(0.99, _BETA, "decay of the second moment")
    tau: float = setting(1e-3, number("(0, inf)"), "added to the denominator")

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
        m = _blend(state.moments["m"], gradient, self.beta_1)
        v = self.second_moment(state.moments["v"], gradient * gradient, self.beta_2)
        direction = m / (np.sqrt(v, dtype=np.float32) + np.float32(self.tau))
        move = np.float32(self.learning_rate) * direction
        stepped = np.subtract(vector, move, dtype=np.float32)
        return stepped, OptimizerState(state.step + 1, {"m": m, "v": v})


@dataclass(frozen=True, kw_only=True)
class Decaying:
    """An optimizer with a decaying learning rate: ``lr * decay ** t``, t = 0, 1, ...

    Equals PyTorch's ``ExponentialLR``, stepped after each step of the optimizer. t
    counts the steps of the run: parts that step in some turns only have the same rate
    as the others.

    Attributes
    ----------
    optimizer : ServerOptimizer
        The optimizer, with its initial learning rate. Its steps have to be
        proportional to that rate.
    decay : float
        Factor on the learning rate after each step, in (0, 1].

    Raises
    ------
    ValueError
        If the factor is out of range.
    """

    optimizer: ServerOptimizer
    decay: float = setting(
        1.0,
        number("(0, 1]"),
        "factor on the server learning rate after each step",
        key="server-learning-rate-decay",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def init(self, size: int) -> OptimizerState:
        """Return the optimizer's own state before the first step."""
        return self.optimizer.init(size)

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return one step of the optimizer, at the learning rate of this step."""
        stepped, after = self.optimizer.step(vector, gradient, state)
        taken = state.step if state.run_steps is None else state.run_steps
        # A step is proportional to the learning rate, weight decay included.
        part = np.float32(self.decay**taken)
        return vector + part * (stepped - vector), after


def _blend(moment: Moment, fresh: Moment, beta: float) -> Moment:
    return np.float32(beta) * moment + np.float32(1 - beta) * fresh


def _adagrad(v: Moment, square: Moment, beta: float) -> Moment:
    return v + square


def _yogi(v: Moment, square: Moment, beta: float) -> Moment:
    sign: Moment = np.sign(v - square)
    return v - np.float32(1 - beta) * square * sign


SERVER_OPTIMIZERS: dict[str, Callable[..., ServerOptimizer]] = {
    "sgd": Sgd,
    "adamw": AdamW,
    # v = b2 v + (1 - b2) D^2
    "fedadam": partial(AdaptiveOptimizer, second_moment=_blend),
    # v = v - (1 - b2) D^2 sign(v - D^2)
    "fedyogi": partial(AdaptiveOptimizer, second_moment=_yogi),
    # v = v + D^2, without momentum
    "fedadagrad": partial(AdaptiveOptimizer, second_moment=_adagrad, beta_1=0.0),
}
"""Server optimizers by name; each may be called with ``learning_rate=...``."""
