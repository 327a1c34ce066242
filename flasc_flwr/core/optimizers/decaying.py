"""A decaying learning rate, around any server optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.optimizers.optimizer import OptimizerState, ServerOptimizer
from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting


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
