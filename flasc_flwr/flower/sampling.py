"""Sampling: which nodes take part in a round, and how many there must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flasc_flwr.flower.roster import Participant
from flasc_flwr.ranges import number, whole


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How cohorts are drawn: seeded, uniformly, without replacement.

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

    def __post_init__(self) -> None:
        """Check the ranges."""
        number("[0, 1]").require("fraction_train", self.fraction_train)
        number("[0, 1]").require("fraction_evaluate", self.fraction_evaluate)
        whole(0).require("min_train_nodes", self.min_train_nodes)
        whole(0).require("min_evaluate_nodes", self.min_evaluate_nodes)
        whole(1).require("min_available_nodes", self.min_available_nodes)

    def training(
        self, present: list[Participant], round: int, *, everyone: bool = False
    ) -> list[Participant]:
        """Draw those who train in a round; `everyone`, where the method asks for it."""
        fraction = 1.0 if everyone else self.fraction_train
        return self._draw(present, round, fraction, self.min_train_nodes, 0)

    def evaluating(self, present: list[Participant], round: int) -> list[Participant]:
        """Draw those who evaluate in a round, not always those who train."""
        return self._draw(
            present, round, self.fraction_evaluate, self.min_evaluate_nodes, 1
        )

    def _draw(
        self,
        present: list[Participant],
        round: int,
        fraction: float,
        at_least: int,
        purpose: int,
    ) -> list[Participant]:
        if fraction == 0:
            return []
        count = min(len(present), max(at_least, int(fraction * len(present))))
        generator = np.random.default_rng([self.seed, round, purpose])
        return [present[i] for i in generator.permutation(len(present))[:count]]

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
