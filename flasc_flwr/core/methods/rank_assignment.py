"""Rank assignment: which clients get the full rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from flasc_flwr.core.layout import Arrays
from flasc_flwr.core.methods.budget import RANK
from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting

_ASSIGNED = '`replication`, rank-assignment = "validation"'


@dataclass(frozen=True, kw_only=True)
class ValidationRanks:
    """Ranks by validation loss, as Byun & Lee (arXiv 2406.17477) assign them.

    All clients start with the low rank and train in the first turn. Then the best of
    them get the full rank, and keep it.

    Attributes
    ----------
    loss_of : Callable[[Arrays], float]
        Validation loss of a client's adapter, at the server. The arrays have the
        shapes of the full adapter.
    low_rank : int
        Rank of all clients at the start, and of the others from then on.
    fraction : float
        Fraction of the clients that get the full rank, rounded; at least one does.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    loss_of: Callable[[Arrays], float]
    low_rank: int = setting(
        4, RANK, "rank of most clients, where ranks are assigned", used_by=_ASSIGNED
    )
    fraction: float = setting(
        0.1,
        number("(0, 1]"),
        "fraction of the clients that get the full lora-rank",
        key="high-rank-fraction",
        used_by=_ASSIGNED,
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def best(self, losses: Mapping[str, float]) -> list[str]:
        """Return the clients with the lowest losses.

        Of equal losses the first name wins; a loss that is not finite never wins.
        """
        ranked = sorted((loss, name) for name, loss in losses.items() if isfinite(loss))
        return [
            name for _, name in ranked[: max(1, round(self.fraction * len(losses)))]
        ]
