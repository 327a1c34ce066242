"""What a client contributes, and what an aggregation rule makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

import numpy as np

from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.merged import Terms
from flasc_flwr.core.ranks import components
from flasc_flwr.core.sparsity import Positions, SparseVector

WEIGHTINGS = ("uniform", "examples")
"""How much each client counts in a mean: alike, or by its number of examples."""

_EVERYWHERE = slice(None)


@dataclass(frozen=True, eq=False)
class Contribution:
    """One client's update, in terms of the server's whole adapter.

    Attributes
    ----------
    update : SparseVector
        Trained minus received, of size N; what was not sent is a zero update.
    rank : int
        How many components the client has.
    weight : float
        Its weight, above 0; weights need not sum to 1.
    segment : NDArray[np.int64], optional
        Ascending positions of the entries that it was to send of; None: all that it
        has.
    """

    update: SparseVector
    rank: int
    weight: float = 1.0
    segment: Positions | None = None

    def check(self, size: int) -> None:
        """Check that this can be added to a sum of length `size`.

        Raises
        ------
        ValueError
            If the update has another size, or the weight is not positive and finite.
        """
        if self.update.size != size:
            raise ValueError(f"update has size {self.update.size}, the mean has {size}")
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight!r}, allowed is a number above 0")

    def trained(
        self, layout: Layout, vector: Vector, place: slice = _EVERYWHERE
    ) -> Vector:
        """Return the client's weights as the server knows them, shape (N,).

        The server's own, in the components that the client has, plus what it sent;
        zero in the components that it lacks.

        Parameters
        ----------
        layout : Layout
            The server's adapter.
        vector : NDArray[np.float32], shape (N,)
            The server vector.
        place : slice
            Which part of the vector to return; by default all.
        """
        start, stop, _ = place.indices(len(vector))
        owned = components(layout)[start:stop] < max(1, self.rank)
        trained = np.where(owned, vector[start:stop], np.float32(0))
        first, last = np.searchsorted(self.update.positions, (start, stop))
        sent = self.update.positions[first:last] - start
        trained[sent] += self.update.values[first:last]
        return trained


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a rule made of a cohort.

    Attributes
    ----------
    update : NDArray[np.float32], shape (N,)
        What the rule wants the server vector to become, minus what it is.
    terms : Terms
        B and A to be merged into the backbone beside it, by module.
    """

    update: Vector
    terms: Terms = field(default_factory=dict)


class Aggregator(Protocol):
    """Takes contributions one at a time."""

    @property
    def count(self) -> int:
        """How many it has taken."""
        ...

    def add(self, contribution: Contribution) -> None:
        """Take one contribution."""
        ...

    def result(self) -> Aggregate:
        """Return what has come of it.

        Raises
        ------
        ValueError
            If there was no contribution.
        """
        ...


MakeAggregator = Callable[[Layout, Vector], Aggregator]
"""Makes an aggregator for a cohort, from the layout and the server vector."""
