"""Strategies that compare the clients' replies entry by entry, or by distance.

If each client sends 1/16 of the entries, most values of an entry are zero, and so is
their median: the entry does not move. So uploads for these strategies have density 1,
rounded to the value format.
"""

from __future__ import annotations

from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    MultiKrum,
    Strategy,
)

_COMPARE = (Bulyan, FedMedian, FedTrimmedAvg, MultiKrum)


def comparing(strategy: Strategy) -> str | None:
    """Return the name of the strategy that compares replies; None if none does.

    Strategies inside wrappers count, too.
    """
    pending, seen = [strategy], set[int]()
    while pending:
        inner = pending.pop()
        if isinstance(inner, _COMPARE):
            return type(inner).__name__
        seen.add(id(inner))
        wrapped = [v for v in vars(inner).values() if isinstance(v, Strategy)]
        pending += [w for w in wrapped if id(w) not in seen]
    return None
