"""Series of several seeds: the same curve, measured at different x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Series = tuple[Sequence[float], Sequence[float]]
"""x and y of one run; x ascending."""


def on_one_axis(
    seeds: Sequence[Series], *, positive: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all seeds at the same x, over the range that all of them have.

    Parameters
    ----------
    seeds : Sequence[Series]
        One for each seed; linearly interpolated where x of another seed lie between.
    positive : bool
        Leave out points whose x is not above 0.

    Returns
    -------
    tuple[NDArray[np.float64], NDArray[np.float64]]
        x, shape (n,), and y of each seed there, shape (seeds, n); n may be 0.
    """
    arrays = [(np.asarray(x, float), np.asarray(y, float)) for x, y in seeds]
    if positive:
        arrays = [(x[x > 0], y[x > 0]) for x, y in arrays]
    arrays = [(x, y) for x, y in arrays if len(x)]
    if not arrays:
        return np.empty(0), np.empty((0, 0))
    first = max(x[0] for x, _ in arrays)
    last = min(x[-1] for x, _ in arrays)
    every = np.unique(np.concatenate([x for x, _ in arrays]))
    shared = every[(every >= first) & (every <= last)]
    ys = np.array([np.interp(shared, x, y) for x, y in arrays])
    return shared, ys.reshape(len(arrays), len(shared))


def integer_x(series: Mapping[str, Sequence[Series]]) -> bool:
    """Return whether all x are integers, as rounds are."""
    return all(
        float(x).is_integer()
        for seeds in series.values()
        for xs, _ in seeds
        for x in xs
    )
