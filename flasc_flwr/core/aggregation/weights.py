"""A client's weight in a mean: its own or the rule's, capped by the cohort's median."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flasc_flwr.core.aggregation.contribution import Aggregate, Aggregator, Contribution
from flasc_flwr.core.factors import product_norm
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.outliers import MedianBound

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float64).max)

Weigh = Callable[[Contribution], float]
"""Returns a client's weight, at least 0."""


class Weighted:
    """Weighs contributions for an aggregator, one at a time.

    No client counts more than `ratio` times the cohort's median: one that claims to
    have a million examples, or sends a huge adapter, is not the whole mean. The first
    contributions and those that may be capped wait for the median
    (:class:`~.MedianBound`).

    Parameters
    ----------
    inner : Aggregator
        Takes the contributions, with their new weights.
    layout : Layout
        The server's adapter.
    weigh : Weigh
        A client's weight before the cap.
    ratio : float
        The cap, in multiples of the median; 0 is none.
    """

    def __init__(
        self, inner: Aggregator, layout: Layout, weigh: Weigh, ratio: float
    ) -> None:
        self._inner = inner
        self._layout = layout
        self._weigh = weigh
        self._bound = MedianBound[Contribution](ratio)

    @property
    def count(self) -> int:
        """Number of contributions added."""
        return self._inner.count + self._bound.held

    def add(self, contribution: Contribution) -> None:
        """Add one contribution."""
        contribution.check(self._layout.size)
        weight = self._weigh(contribution)
        weighted = replace(contribution, weight=max(weight, _SMALLEST))
        for one, largest in self._bound.take(weighted, weight):
            self._add(one, largest)

    def result(self) -> Aggregate:
        """Return what the rule makes of all contributions."""
        for one, largest in self._bound.rest():
            self._add(one, largest)
        return self._inner.result()

    def _add(self, one: Contribution, largest: float) -> None:
        if one.weight > largest:
            one = replace(one, weight=largest)
        self._inner.add(one)


def own_weight(contribution: Contribution) -> float:
    """Return the weight that a contribution came with."""
    return contribution.weight


def frobenius(layout: Layout, vector: Vector, contribution: Contribution) -> float:
    """Return HetLoRA's weight of client k: ``||B_k A_k||_F``.

    Cho et al., arXiv 2401.06432. One norm over all modules, the root of the sum of
    their squares, which also weights the head; we do not know whether the paper has one
    norm per module. The contribution's own weight is ignored. If no client has a
    non-zero product, all weights are equal.
    """
    norm = product_norm(layout, contribution.trained(layout, vector))
    # An adapter with infinite entries has no norm: the mean will not be finite either.
    return norm if norm < _LARGEST else _LARGEST
