"""Rank assignment: who is given the whole rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from flasc_flwr.core.layout import Arrays
from flasc_flwr.core.methods.budget import RANK
from flasc_flwr.core.ranges import number


@dataclass(frozen=True, kw_only=True)
class ValidationRanks:
    """Ranks by validation loss, as Byun & Lee (arXiv 2406.17477) assign them.

    All clients begin with the low rank and train in the first turn. The best of them
    are given the whole rank then, and keep it.

    Attributes
    ----------
    loss_of : Callable[[Arrays], float]
        Validation loss of a client's adapter, at the server. The arrays have the
        shapes of the whole adapter.
    low_rank : int
        Rank at the start, and of the others from then on.
    fraction : float
        Fraction of the clients that are given the whole rank, rounded, but one at
        least.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    loss_of: Callable[[Arrays], float]
    low_rank: int = 4
    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        RANK.require("low-rank", self.low_rank)
        number("(0, 1]").require("high-rank-fraction", self.fraction)

    def best(self, losses: Mapping[str, float]) -> list[str]:
        """Return the clients with the lowest losses.

        Of equal losses the first name wins; one that is not finite never does.
        """
        ranked = sorted((loss, name) for name, loss in losses.items() if isfinite(loss))
        return [
            name for _, name in ranked[: max(1, round(self.fraction * len(losses)))]
        ]
