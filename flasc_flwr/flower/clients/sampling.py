"""Sampling: which nodes take part in a round, and how many are needed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, floor
from typing import Any

import numpy as np

from flasc_flwr.core.ranges import integer, number
from flasc_flwr.core.settings import check, setting, settings_of
from flasc_flwr.flower.clients.participant import Participant


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How cohorts are drawn: uniformly, with a seed.

    A fixed number without replacement, or a Poisson sample.

    Attributes
    ----------
    seed : int
        Seed of the run.
    fraction_train, fraction_evaluate : float
        Fraction of the nodes that train and that evaluate in a round, rounded down.
    min_train_nodes, min_evaluate_nodes : int
        Smallest number of each, if there are as many; without effect where the
        fraction is 0.
    min_available_nodes : int
        Nodes that must be online before a round starts.
    oversample : float
        How many times more nodes train than the round waits for, at least 1.
    poisson : bool
        Each node trains independently with probability `fraction_train`: the cohort
        size varies, and `min_train_nodes` has no effect.

    Raises
    ------
    ValueError
        If one is out of range; the message names it.
    """

    seed: int = setting(
        0, integer(0), "seed of the adapter, partitions, cohorts and shuffling"
    )
    fraction_train: float = setting(
        0.5, number("[0, 1]"), "fraction of the nodes that train in a round"
    )
    fraction_evaluate: float = setting(
        0.0, number("[0, 1]"), "fraction of the nodes that evaluate in a round"
    )
    min_available_nodes: int = setting(
        2,
        integer(1),
        "nodes that must be online, and smallest number of nodes in a round",
        key="min-nodes",
        unit="nodes",
        may_change=True,  # a fleet may have lost nodes for good
    )
    # The run config has one key for all three, as the first describes it.
    min_train_nodes: int = setting(
        2,
        integer(0),
        "smallest number of nodes that train",
        key="min-nodes",
        may_change=True,
    )
    min_evaluate_nodes: int = setting(
        2,
        integer(0),
        "smallest number of nodes that evaluate",
        key="min-nodes",
        may_change=True,
    )
    oversample: float = setting(
        1.0,
        number("[1, inf)"),
        "how many times more nodes train than the round waits for",
    )
    poisson: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def arguments(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of a strategy.

        All but `poisson`, which is the strategy's to choose.
        """
        return {name: getattr(self, name) for name in settings_of(self)}

    def shared_by_resumed(self) -> dict[str, Any]:
        """Return the settings in which a run and the one that it resumes are equal."""
        free = {name for name, one in settings_of(self).items() if one.may_change}
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in free
        }

    def training(
        self, present: list[Participant], round: int, *, everyone: bool = False
    ) -> list[Participant]:
        """Draw the nodes that train in a round; `everyone` draws all of them."""
        fraction = 1.0 if everyone else self.fraction_train
        if self.poisson:
            drawn = self._generator(round, 0).random(len(present))
            return [p for p, d in zip(present, drawn, strict=True) if d < fraction]
        needed = self._count(present, fraction, self.min_train_nodes)
        # The product may be infinite.
        wanted = min(_exact(needed * self.oversample), len(present))
        return self._draw(present, round, ceil(wanted), 0)

    def enough(self, cohort: list[Participant]) -> int | None:
        """Return how many replies of a training cohort are enough; None for all."""
        if self.oversample == 1:
            return None
        return max(1, floor(_exact(len(cohort) / self.oversample)))

    def evaluating(self, present: list[Participant], round: int) -> list[Participant]:
        """Draw the nodes that evaluate in a round, separately from those that train."""
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


def _exact(count: float) -> float:
    """Return a number without the error of its product: 10 * 1.1 is above 11."""
    return round(count, 9)
