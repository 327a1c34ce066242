"""Outliers: values compared with the median of their cohort, as they arrive."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from math import inf
from typing import Generic, TypeVar

from flasc_flwr.core.ranges import either, number

ENOUGH = 5
"""Fewest values with a median that one of them cannot set."""

RATIO = either(0.0, number("[1, inf)"))
"""What a multiple of the median may be; 0 is no bound."""

MOST_HELD = 5
"""Most outliers that wait for the median of the whole cohort."""

T = TypeVar("T")


class MedianBound(Generic[T]):
    """Finds the largest value that each item may have: some times the cohort's median.

    Items come one by one and leave in the same order, except for outliers: an item
    beyond the bound so far waits until the median allows it or no more items come. Of
    more than `MOST_HELD` that wait, the largest leaves with the bound so far: memory
    does not grow with the cohort. The first items wait until `ENOUGH` have a value
    above zero; with fewer there is no bound. Zeros are not counted, as they say nothing
    about the size of the others, and wait only behind an item that does.

    Parameters
    ----------
    ratio : float
        The multiple of the median, one of `RATIO`.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._held: list[tuple[T, float]] = []
        self._values: list[float] = []

    @property
    def held(self) -> int:
        """Number of items that wait."""
        return len(self._held)

    def take(self, item: T, value: float) -> Iterator[tuple[T, float]]:
        """Yield the items whose turn has come, each with the largest value allowed.

        Parameters
        ----------
        item : T
            The item, such as an update.
        value : float
            Its value, such as the norm; at least 0.
        """
        if not self._ratio:
            yield item, inf
            return
        if value > 0:
            insort(self._values, value)
        held, self._held = [*self._held, (item, value)], []
        largest = self._largest
        for waiting in held:
            first_zero = not waiting[1] and not self._held
            if first_zero or waiting[1] <= largest < inf:
                yield waiting[0], largest
            else:
                self._held.append(waiting)
        if largest < inf and len(self._held) > MOST_HELD:
            outlier = max(self._held, key=lambda waiting: waiting[1])
            self._held.remove(outlier)
            yield outlier[0], largest

    def rest(self) -> Iterator[tuple[T, float]]:
        """Yield the items that still wait: no more will come."""
        held, self._held = self._held, []
        for item, _ in held:
            yield item, self._largest

    @property
    def _largest(self) -> float:
        """The bound so far; infinite without enough values."""
        if len(self._values) < ENOUGH:
            return inf
        return self._ratio * _median(self._values)


def capped_weights(weights: Sequence[float], ratio: float) -> list[float]:
    """Return weights, none of them above `ratio` times their median.

    Fewer than `ENOUGH` are returned as they are, as are all with the ratio 0.
    """
    if not ratio or len(weights) < ENOUGH:
        return list(weights)
    largest = ratio * _median(sorted(weights))
    return [min(weight, largest) for weight in weights]


def _median(ascending: Sequence[float]) -> float:
    middle = len(ascending) // 2
    if len(ascending) % 2:
        return ascending[middle]
    # Halved first, since the sum could overflow.
    return ascending[middle - 1] / 2 + ascending[middle] / 2
