"""Server optimizers: one step of the server vector along the mean update.

A step takes the server vector and a gradient, which in federated learning is the
negative mean update, and returns the new vector and the new state. An optimizer holds
only settings; everything that changes is in the state, which can be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flasc_flwr.core.optimizers.adaptive import (
    AdamW,
    AdaptiveOptimizer,
    adagrad,
    yogi,
)
from flasc_flwr.core.optimizers.decaying import Decaying
from flasc_flwr.core.optimizers.momentum import FedAvgM, Sgd
from flasc_flwr.core.optimizers.optimizer import (
    LEARNING_RATE,
    OptimizerState,
    ServerOptimizer,
    blend,
)

__all__ = [
    "LEARNING_RATE",
    "SERVER_OPTIMIZERS",
    "AdamW",
    "AdaptiveOptimizer",
    "Decaying",
    "FedAvgM",
    "OptimizerState",
    "ServerOptimizer",
    "Sgd",
]

SERVER_OPTIMIZERS: dict[str, Callable[..., ServerOptimizer]] = {
    "sgd": Sgd,
    "fedavgm": FedAvgM,
    "adamw": AdamW,
    # v = b2 v + (1 - b2) D^2
    "fedadam": partial(AdaptiveOptimizer, second_moment=blend),
    # v = v - (1 - b2) D^2 sign(v - D^2)
    "fedyogi": partial(AdaptiveOptimizer, second_moment=yogi),
    # v = v + D^2, without momentum
    "fedadagrad": partial(AdaptiveOptimizer, second_moment=adagrad, beta_1=0.0),
}
"""Server optimizers by name; each may be called with ``learning_rate=...``."""
