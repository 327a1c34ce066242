"""Aggregation: what the server makes of the cohort's updates, one at a time."""

from __future__ import annotations

import numpy as np

from flasc_flwr.layout import Vector
from flasc_flwr.sparsity import SparseVector

WEIGHTINGS = ("uniform", "examples")
"""How much each client counts in a mean: alike, or by its number of examples."""


class RunningMean:
    """Weighted mean of sparse updates, in memory that does not grow with the cohort.

    An entry that a client did not send counts as a zero update: the sum is divided
    by the weight of the whole cohort, never by how many sent that entry (FLASC's
    code, ``g / server_batch``).

    Parameters
    ----------
    size : int
        N, the length of the updates.
    """

    def __init__(self, size: int) -> None:
        # Doubles: a thousand float32 updates add up without losing the small ones.
        self._sum = np.zeros(size, np.float64)
        self._weight = 0.0
        self.count = 0

    def add(self, update: SparseVector, weight: float = 1.0) -> None:
        """Add one client's update.

        Raises
        ------
        ValueError
            If the update has another size, or the weight is not positive and finite.
        """
        if update.size != len(self._sum):
            raise ValueError(
                f"update has size {update.size}, the mean has {len(self._sum)}"
            )
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"weight is {weight!r}, allowed is a number above 0")
        # Three times as fast as ``+=``, which reads all entries out and writes them
        # back; positions never repeat, so both mean the same.
        weighed = np.multiply(update.values, weight, dtype=np.float64)
        np.add.at(self._sum, update.positions, weighed)
        self._weight += weight
        self.count += 1

    def mean(self) -> Vector:
        """Return the mean, float32, shape (N,).

        Raises
        ------
        ValueError
            If no update was added.
        """
        if self.count == 0:
            raise ValueError("there is no mean of no updates")
        return (self._sum / self._weight).astype(np.float32)
