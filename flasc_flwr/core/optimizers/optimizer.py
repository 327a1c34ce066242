"""What a server optimizer is, and the state that it works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.ranges import number

Moment = NDArray[np.float32]

LEARNING_RATE = number("(0, inf)")
"""What the learning rate of a server optimizer may be."""

BETA = number("[0, 1)")
"""What the decay of a moment may be."""

RATE_HELP = "learning rate of the server optimizer"


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


def blend(moment: Moment, fresh: Moment, beta: float) -> Moment:
    """Return ``beta * moment + (1 - beta) * fresh``."""
    return np.float32(beta) * moment + np.float32(1 - beta) * fresh
