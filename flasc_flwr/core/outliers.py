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

T = TypeVar("T")


class MedianBound(Generic[T]):
    """Finds the largest value that each item may have: some times the median.

    Items come one by one and leave in the same order. The first are held until
    `ENOUGH` of them have a value above zero; all of these are compared with their
    median. From then on each item is compared with the median of the values so far that
    were within their bound. Zeros are never counted: they say nothing about the
    others' size.

    Parameters
    ----------
    ratio : float
        The multiple of the median, one of `RATIO`.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._held: list[tuple[T, float]] = []
        self._within: list[float] = []

    @property
    def held(self) -> int:
        """Number of items that wait for a median."""
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
        elif self._within:
            largest = self._largest
            if 0 < value <= largest:
                insort(self._within, value)
            yield item, largest
        else:
            self._held.append((item, value))
            values = sorted(value for _, value in self._held if value > 0)
            if len(values) == ENOUGH:
                self._within = values
                largest = self._largest
                self._within = [value for value in values if value <= largest]
                yield from self._released(largest)

    def rest(self) -> Iterator[tuple[T, float]]:
        """Yield the items still held: there are too few for a bound."""
        yield from self._released(inf)

    @property
    def _largest(self) -> float:
        return self._ratio * _median(self._within)

    def _released(self, largest: float) -> Iterator[tuple[T, float]]:
        held, self._held = self._held, []
        for item, _ in held:
            yield item, largest


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
