"""Strategies that compare the clients' replies entry by entry, or by distance.

If each client sends 1/16 of the entries, most values of an entry are zero, and so is
their median: the entry does not move. So uploads for these strategies have density 1,
rounded to the value format.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    names = (
        type(one).__name__ for one in within(strategy) if isinstance(one, _COMPARE)
    )
    return next(names, None)


def within(strategy: Strategy) -> Iterator[Strategy]:
    """Yield a strategy, and those that it wraps under any attribute."""
    pending, seen = [strategy], set[int]()
    while pending:
        inner = pending.pop()
        yield inner
        seen.add(id(inner))
        wrapped = [v for v in vars(inner).values() if isinstance(v, Strategy)]
        pending += [w for w in wrapped if id(w) not in seen]
