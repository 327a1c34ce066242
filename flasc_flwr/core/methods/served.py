"""Which budgets are served: so many that memory does not grow with the clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from flasc_flwr.core.methods.budget import Budget

MOST_SERVED = 16
"""Distinct budgets in one round; for each the server encodes and keeps a download."""


def served(
    wanted: Iterable[Budget], most: int | None = MOST_SERVED
) -> dict[Budget, Budget]:
    """Return, for each of the clients' budgets, the one that is served instead.

    With at most `most` distinct budgets that is the budget itself. Otherwise the most
    common are served, and each other client has the highest of them that exceeds its
    own in nothing. Where there is none, it has the lowest rank, densities and bytes of
    all the clients in the same position.

    Parameters
    ----------
    wanted : Iterable[Budget]
        One for each client of a cohort.
    most : int, optional
        How many distinct budgets are served, at least 1; None: all of them. What a
        client is served then depends on no other client.
    """
    counts = Counter(wanted)
    if most is None:
        return {budget: budget for budget in counts}
    # The rarest first; of equally common ones the lowest.
    ordered = sorted(counts, key=lambda budget: (counts[budget], _key(budget)))
    instead = _moved(ordered, most)
    if all(instead.values()):
        return {budget: lower for budget, lower in instead.items() if lower}
    instead = _moved(ordered, most - 1)
    lowest = _lowest([budget for budget, lower in instead.items() if not lower])
    return {budget: lower or lowest for budget, lower in instead.items()}


def _moved(ordered: list[Budget], most: int) -> dict[Budget, Budget | None]:
    """Return for each budget the highest of the last `most` that is within it."""
    chosen = ordered[max(0, len(ordered) - most) :]
    return {budget: _highest(budget, chosen) for budget in ordered}


def _highest(budget: Budget, chosen: Iterable[Budget]) -> Budget | None:
    """Return the highest that exceeds a budget in nothing."""
    limits = _key(budget)
    within = [
        one
        for one in chosen
        if all(a <= b for a, b in zip(_key(one), limits, strict=True))
    ]
    return max(within, key=_key, default=None)


def _lowest(budgets: list[Budget]) -> Budget:
    """Return the budget that exceeds none of these in anything."""
    least = Budget(
        download_density=min(one.download_density for one in budgets),
        upload_density=min(one.upload_density for one in budgets),
        download_bytes=_fewest(one.download_bytes for one in budgets),
        upload_bytes=_fewest(one.upload_bytes for one in budgets),
    )
    for one in budgets:
        least = least.at_most(one.rank)
    return least


def _fewest(limits: Iterable[int]) -> int:
    """Return the lowest limit in bytes, where 0 is no limit."""
    return min((limit for limit in limits if limit), default=0)


def _key(budget: Budget) -> tuple[float, float, float, float, float]:
    return (
        inf if budget.rank is None else budget.rank,
        budget.download_density,
        budget.upload_density,
        budget.download_bytes or inf,
        budget.upload_bytes or inf,
    )
