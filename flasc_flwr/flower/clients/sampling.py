"""Sampling: which nodes take part in a round, and how many there must be."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from flasc_flwr.core.ranges import integer, number
from flasc_flwr.flower.clients.participant import Participant


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How cohorts are drawn: seeded, and uniformly.

    A fixed number without replacement, or a Poisson sample.

    Attributes
    ----------
    seed : int
        Seed of the run.
    fraction_train, fraction_evaluate : float
        Fraction of the nodes that train, and that evaluate, rounded down.
    min_train_nodes, min_evaluate_nodes : int
        Least number of each, or all nodes; not where the fraction is 0.
    min_available_nodes : int
        Least number online before a round begins.
    oversample : float
        How many times as many nodes train as replies are waited for, at least 1.
    poisson : bool
        Let each node train by itself with the probability `fraction_train`: cohorts
        have no fixed size then, and `min_train_nodes` is without effect.

    Raises
    ------
    ValueError
        If one is out of range; the message names it.
    """

    seed: int
    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    oversample: float = 1.0
    poisson: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        number("[0, 1]").require("fraction_train", self.fraction_train)
        number("[0, 1]").require("fraction_evaluate", self.fraction_evaluate)
        integer(0).require("min_train_nodes", self.min_train_nodes)
        integer(0).require("min_evaluate_nodes", self.min_evaluate_nodes)
        integer(1).require("min_available_nodes", self.min_available_nodes)
        number("[1, inf)").require("oversample", self.oversample)

    def training(
        self, present: list[Participant], round: int, *, everyone: bool = False
    ) -> list[Participant]:
        """Draw those who train in a round; `everyone`, where the method asks for it."""
        fraction = 1.0 if everyone else self.fraction_train
        if self.poisson:
            drawn = self._generator(round, 0).random(len(present))
            return [p for p, d in zip(present, drawn, strict=True) if d < fraction]
        needed = self._count(present, fraction, self.min_train_nodes)
        return self._draw(present, round, ceil(needed * self.oversample), 0)

    def enough(self, cohort: list[Participant]) -> int | None:
        """Return how many replies of a cohort that trains are enough; None: all."""
        return ceil(len(cohort) / self.oversample) if self.oversample > 1 else None

    def evaluating(self, present: list[Participant], round: int) -> list[Participant]:
        """Draw those who evaluate in a round, not always those who train."""
        count = self._count(present, self.fraction_evaluate, self.min_evaluate_nodes)
        return self._draw(present, round, count, 1)

    def _count(self, present: list[Participant], fraction: float, at_least: int) -> int:
        return max(at_least, int(fraction * len(present))) if fraction else 0

    def _draw(
        self, present: list[Participant], round: int, count: int, purpose: int
    ) -> list[Participant]:
        order = self._generator(round, purpose).permutation(len(present))
        return [present[i] for i in order[:count]]

    def _generator(self, round: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, round, purpose])

    def describe(self) -> list[str]:
        """Return the settings as lines of a tree."""
        return [
            "├──> Sampling:",
            f"│\t├── Fraction: train ({self.fraction_train:.2f}) | "
            f"evaluate ({self.fraction_evaluate:.2f})",
            f"│\t├── Minimum nodes: train ({self.min_train_nodes}) | "
            f"evaluate ({self.min_evaluate_nodes})",
            f"│\t├── Minimum available nodes: {self.min_available_nodes}",
            f"│\t└── Seed: {self.seed}",
        ]
