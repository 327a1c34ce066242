"""Averaging rules: zero-padding, replication, and averages over who sent a segment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.aggregation.contribution import Aggregate, Contribution
from flasc_flwr.core.layout import Layout, Vector, chunks
from flasc_flwr.core.ranks import components, rank_of

Float64s = NDArray[np.float64]

Padding = Callable[[Float64s, Vector, Float64s], Float64s]
"""A rule for components that some clients lack. Takes, by entry, the mean update with
zeros for those clients, the server vector, and the fraction of the weight whose clients
have the entry; returns the update. Where that fraction is 1, it is the mean."""


class Average:
    """Weighted average of updates, in memory that does not grow with the cohort.

    An entry that a client has but did not send counts as a zero update: the sum is
    divided by the weight of all clients, not by the weight of those that sent the entry
    (FLASC's code, ``g / server_batch``). Components that a client lacks, because its
    rank is lower, count as `padding` says.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    padding : Padding
        The rule for components that a client lacks.
    """

    def __init__(self, layout: Layout, vector: Vector, padding: Padding) -> None:
        self.count = 0
        self._layout = layout
        self._vector = vector
        self._padding = padding
        # In float64, the sum of a thousand updates does not lose the small ones.
        self._sum = np.zeros(layout.size, np.float64)
        self._weight_of_rank = np.zeros(max(1, rank_of(layout)) + 1, np.float64)
        self._total = 0.0

    def add(self, contribution: Contribution) -> None:
        """Add one client's update."""
        contribution.check(len(self._sum))
        update, weight = contribution.update, contribution.weight
        # Three times as fast as ``+=``, which copies the entries out and back;
        # equivalent, as positions never repeat.
        weighted = np.multiply(update.values, weight, dtype=np.float64)
        np.add.at(self._sum, update.positions, weighted)
        self._note(contribution)
        self.count += 1

    def total(self) -> Float64s:
        """Return the weighted sum of the updates, shape (N,): zero without any.

        Nothing can be added afterwards.
        """
        sums, self._sum = self._sum, np.zeros(0, np.float64)
        return sums

    def result(self) -> Aggregate:
        """Return the average update, shape (N,). Nothing can be added afterwards."""
        if self.count == 0:
            raise ValueError("there are no updates to average")
        sums, total = self.total(), self._total
        # In chunks, and in the memory of the sums: the update of a chunk takes half as
        # much and never reaches the sums that are still needed.
        update = sums.view(np.float32)[: len(sums)]
        for chunk in chunks(len(update)):
            mean = sums[chunk] / total
            if not self._whole:
                fraction = self._owned(chunk) / total
                mean = self._padding(mean, self._vector[chunk], fraction)
            update[chunk] = mean
        return Aggregate(update)

    @property
    def _whole(self) -> bool:
        """Whether every client has every entry: then no rule has anything to fill."""
        return bool(self._weight_of_rank[-1] == self._total)

    def _note(self, contribution: Contribution) -> None:
        """Note which entries a client has."""
        self._total += contribution.weight
        # An adapter without factors has rank 0; everything is in component 0.
        self._weight_of_rank[max(1, contribution.rank)] += contribution.weight

    def _owned(self, place: slice) -> Float64s:
        """Return the weight of the clients that have each entry of a part."""
        # Clients of rank above j have component j.
        of_component = np.cumsum(self._weight_of_rank[::-1])[::-1][1:]
        return np.asarray(of_component[components(self._layout)[place]], np.float64)


def zero_padded_updates(mean: Float64s, vector: Vector, fraction: Float64s) -> Float64s:
    """Count a component that a client lacks as a zero update.

    ``w + sum_k p_k pad(delta_k)``: FLASC's code for unequal ranks.
    """
    return mean


def zero_padding(mean: Float64s, vector: Vector, fraction: Float64s) -> Float64s:
    """Count a component that a client lacks as a weight of zero.

    ``sum_k p_k pad(w_k)``: the zero-padding of the literature, under which the last
    components shrink every round (the baseline of Byun & Lee, arXiv 2406.17477).
    """
    return mean - vector * (1 - fraction)


def replication(mean: Float64s, vector: Vector, fraction: Float64s) -> Float64s:
    """Fill a component that a client lacks with the average of those that have it.

    ``sum_k p_k w~_k``, where w~_k takes the components it lacks from the average over
    the clients of higher rank (Byun & Lee, arXiv 2406.17477). Equivalent to averaging
    each component over the clients that have it. One that no client has is unchanged.
    """
    return np.divide(mean, fraction, out=np.zeros_like(mean), where=fraction > 0)


class AverageOfSenders(Average):
    """Each entry averaged over the clients that were to send it.

    Those that have its component, and whose segment it lies in (EcoLoRA, arXiv
    2506.02001). One that no client was to send is unchanged. Without segments this is
    replication.

    Parameters
    ----------
    layout : Layout
        The server's adapter.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    """

    def __init__(self, layout: Layout, vector: Vector) -> None:
        super().__init__(layout, vector, replication)
        self._weight_of_entry = np.zeros(layout.size, np.float64)

    def _note(self, contribution: Contribution) -> None:
        if contribution.segment is None:
            super()._note(contribution)
            return
        self._total += contribution.weight
        self._weight_of_entry[contribution.segment] += contribution.weight

    def _owned(self, place: slice) -> Float64s:
        return super()._owned(place) + self._weight_of_entry[place]
