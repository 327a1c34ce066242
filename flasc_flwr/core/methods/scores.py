"""Scores: which entries of a vector count as the largest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flasc_flwr.core.initial import fan_in
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.ranges import choice
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k

SCORES = ("magnitude", "fan-in")
"""Score of an entry: ``magnitude`` is ``|w|``, as in FLASC's code; ``fan-in`` is
``|w| sqrt(fan_in)``, which treats initial values of A alike in wide and narrow
modules."""

QUOTAS = ("none", "tensor")
"""Where scores compete: ``none``, over the whole adapter, as in FLASC's code;
``tensor``, within each tensor, so that every tensor gets its share."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the largest entries of an adapter are selected.

    Attributes
    ----------
    score : str
        One of `SCORES`.
    quota : str
        One of `QUOTAS`.
    whole_head : bool
        Always keep all of the head (FLASC's code for unequal devices).

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    score: str = "magnitude"
    quota: str = "none"
    whole_head: bool = False

    def __post_init__(self) -> None:
        """Check the names."""
        choice(*SCORES).require("score", self.score)
        choice(*QUOTAS).require("quota", self.quota)

    def largest(self, layout: Layout, vector: Vector, density: float) -> SparseVector:
        """Keep the fraction `density` of the entries with the highest scores.

        Entries that are exactly zero are never kept.

        Parameters
        ----------
        layout : Layout
            Layout of the adapter.
        vector : NDArray[np.float32], shape (N,)
            What to select from.
        density : float
            Fraction to keep, in (0, 1].
        """
        if density == 1 or self == Scoring():
            return top_k(vector, density)
        scored = vector
        if self.score == "fan-in":
            scored = vector * _root_fan_in(layout)
        if self.quota == "tensor":
            chosen = [
                top_k(scored[place], self._density(tensor.role, density)).positions
                + place.start
                for tensor, place in layout.slices()
                if tensor.size
            ]
            positions = np.concatenate(chosen)
        else:
            chosen = [
                places[top_k(scored[places], within).positions]
                for places, within in self._groups(layout, density)
            ]
            positions = np.sort(np.concatenate(chosen))
        return SparseVector(len(vector), positions, vector[positions])

    def _groups(self, layout: Layout, density: float) -> list[tuple[Positions, float]]:
        """Return groups of entries that compete, each with its density."""
        every = np.arange(layout.size)
        if not self.whole_head:
            return [(every, density)]
        head = np.zeros(layout.size, bool)
        for tensor, place in layout.slices():
            head[place] = tensor.role == Role.HEAD
        parts = [(every[~head], density), (every[head], 1.0)]
        return [(places, within) for places, within in parts if len(places)]

    def _density(self, role: Role, density: float) -> float:
        return 1.0 if self.whole_head and role == Role.HEAD else density


@lru_cache(maxsize=16)
def _root_fan_in(layout: Layout) -> Vector:
    roots = np.empty(layout.size, np.float32)
    for tensor, place in layout.slices():
        roots[place] = fan_in(tensor) ** 0.5
    return roots
