"""Density schedules: how a density changes with the rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flasc_flwr.core.ranges import integer, number

Schedule = Callable[[float, float, int], float]
"""Takes a density, the decay and how often it has acted; gives the round's density."""


def decaying(density: float, decay: float, times: int) -> float:
    """Begin at `density`: ``density * decay ** times``, as in FLASC's code."""
    return density * decay**times


def decaying_to(density: float, decay: float, times: int) -> float:
    """Begin at 1 and end at `density`: iterative magnitude pruning."""
    return max(density, decay**times)


@dataclass(frozen=True, kw_only=True)
class Decay:
    """How fast densities decay.

    Attributes
    ----------
    download, upload : float
        Factor each time, in (0, 1]; 1 is no decay.
    every : int
        Rounds between two times, at least 1.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download: float = 1.0
    upload: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        """Check the factors."""
        number("(0, 1]").require("download-density-decay", self.download)
        number("(0, 1]").require("upload-density-decay", self.upload)
        integer(1).require("density-decay-every", self.every)

    def times(self, turn: int) -> int:
        """Return how often the decay has acted at a turn, counted from 1."""
        return (turn - 1) // self.every
