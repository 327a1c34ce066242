"""The learning rate of the clients, by round."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi

from flasc_flwr.app.config import RunConfig

_FALLING: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + cos(pi * progress)),
}
"""How far above the floor, from 1 to 0, by the progress of the run, from 0 to 1."""


def client_learning_rate(config: RunConfig, current: int) -> float:
    """Return the clients' learning rate in a round.

    With ``p = current / rounds``, the cosine is ``floor + (rate - floor) (1 + cos(pi
    p)) / 2``, as in Flower's FlowerTune example, whose floor is 1/50 of its rate; the
    last round has the floor. Rounds of warm-up come first and do not count as progress:
    round j of w has ``j / (w + 1)`` of the rate.

    Parameters
    ----------
    config : RunConfig
        Rate, schedule, floor, warm-up and number of rounds.
    current : int
        The round, from 1.
    """
    rate, warmup = config.client_learning_rate, config.client_warmup_rounds
    if current <= warmup:
        return rate * current / (warmup + 1)
    progress = min(1.0, (current - warmup) / max(1, config.num_server_rounds - warmup))
    above = _FALLING[config.client_learning_rate_schedule](progress)
    floor = config.client_learning_rate_floor
    return rate * (floor + (1.0 - floor) * above)
