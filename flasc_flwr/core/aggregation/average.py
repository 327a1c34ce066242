"""Averaging rules: what a component counts that some clients do not have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.aggregation.contribution import Aggregate, Contribution
from flasc_flwr.core.factors import product_norm
from flasc_flwr.core.layout import Layout, Vector, blocks
from flasc_flwr.core.ranks import components, rank_of

_SMALLEST = float(np.finfo(np.float32).tiny)

Doubles = NDArray[np.float64]

Missing = Callable[[Doubles, Vector, Doubles], Doubles]
"""Gives the update of every entry from the sum of the weighted updates over the weight
of the cohort, the server vector, and the share of the weight that owns the entry."""


class Average:
    """Weighted average of updates, in memory that does not grow with the cohort.

    An entry that a client has but did not send counts as a zero update: the sum is
    divided by the weight of clients, never by how many sent that entry (FLASC's
    code, ``g / server_batch``). Clients of a lower rank do not have the last
    components: what these count is `missing`'s to say.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    missing : Missing
        What components count that a client does not have.
    weigh : Callable[[Contribution], float], optional
        A client's weight; by default the contribution's own.
    """

    def __init__(
        self,
        layout: Layout,
        vector: Vector,
        missing: Missing,
        weigh: Callable[[Contribution], float] | None = None,
    ) -> None:
        self.count = 0
        self._layout = layout
        self._vector = vector
        self._missing = missing
        self._weigh = weigh
        # Doubles: a thousand float32 updates add up without losing the small ones.
        self._sum = np.zeros(layout.size, np.float64)
        self._weights = np.zeros(max(1, rank_of(layout)) + 1, np.float64)

    def add(self, contribution: Contribution) -> None:
        """Add one client's update."""
        contribution.check(len(self._sum))
        weight = self._weigh(contribution) if self._weigh else contribution.weight
        update = contribution.update
        # Three times as fast as ``+=``, which reads all entries out and writes them
        # back; positions never repeat, so both mean the same.
        weighed = np.multiply(update.values, weight, dtype=np.float64)
        np.add.at(self._sum, update.positions, weighed)
        # Clients of an adapter without factors have rank 0, and all of it.
        self._weights[max(1, contribution.rank)] += weight
        self.count += 1

    def result(self) -> Aggregate:
        """Return the average update, shape (N,)."""
        if self.count == 0:
            raise ValueError("there is no average of no updates")
        total = self._weights.sum()
        # Component j is owned by those with a rank above j.
        owned = np.cumsum(self._weights[::-1])[::-1][1:] / total
        component = components(self._layout)
        update = np.empty(self._layout.size, np.float32)
        # In blocks, as doubles of everything would be many times the adapter.
        for block in blocks(len(update)):
            mean = self._sum[block] / total
            share = owned[component[block]]
            update[block] = self._missing(mean, self._vector[block], share)
        return Aggregate(update)


def no_update(mean: Doubles, vector: Vector, share: Doubles) -> Doubles:
    """Count a missing component as a zero update.

    ``w + sum_k p_k pad(delta_k)``: what FLASC's code does for unequal ranks.
    """
    return mean


def zero_weight(mean: Doubles, vector: Vector, share: Doubles) -> Doubles:
    """Count a missing component as a weight of 0.

    ``sum_k p_k pad(w_k)``: the zero-padding of the literature, under which the last
    components shrink each round (Byun & Lee, arXiv 2406.17477, as their baseline).
    """
    return mean - vector * (1 - share)


def replicated(mean: Doubles, vector: Vector, share: Doubles) -> Doubles:
    """Fill a missing component with the average of those who have it.

    ``sum_k p_k w~_k``, where w~_k takes what it lacks from the average over the
    clients of higher rank (Byun & Lee, arXiv 2406.17477): the same as averaging each
    component over its owners alone. One that nobody owns stays as it is.
    """
    return np.divide(mean, share, out=np.zeros_like(mean), where=share > 0)


def frobenius(layout: Layout, vector: Vector) -> Average:
    """Return HetLoRA's rule: zero-padding, client k weighted by ``||B_k A_k||_F``.

    arXiv 2401.06432. One number over all modules, the root of the sum of their
    squares; whether the paper has one for each is not known to us. It weighs the head,
    too. The contributions' own weights do not count.
    """

    def weigh(contribution: Contribution) -> float:
        norm = product_norm(layout, contribution.trained(layout, vector))
        # Clients that all have no product at all count alike.
        return max(norm, _SMALLEST)

    return Average(layout, vector, zero_weight, weigh)
