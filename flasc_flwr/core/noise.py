"""Noise of central differential privacy: on the sum of updates, and on their count."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector, chunks
from flasc_flwr.core.privacy import LEAST_NORM, MOST_NORM, Privacy

_MOST_POWER = 200.0
"""Takes a norm from one bound to the other, and does not overflow."""


def released(
    total: NDArray[np.float64],
    *,
    cohort: int,
    deviation: float,
    generator: np.random.Generator,
) -> Vector:
    """Return the noisy mean of updates, over the cohort that was drawn.

    ``(sum of updates + N(0, deviation^2)) / cohort`` on every coordinate: divided by
    the number that was drawn, so that fewer replies do not mean less noise.

    Parameters
    ----------
    total : NDArray[np.float64], shape (N,)
        Sum of the replies' updates. Rounded before the noise is added, it would depend
        on one of them by more than that one's norm.
    cohort : int
        Clients drawn, or their expected number.
    deviation : float
        Standard deviation of the noise on the sum.
    generator : np.random.Generator
        Source of the noise.
    """
    mean = np.empty(len(total), np.float32)
    for chunk in chunks(len(total)):
        noise = generator.normal(0.0, deviation, len(mean[chunk]))
        mean[chunk] = (total[chunk] + noise) / cohort
    return mean


def adapted_norm(
    privacy: Privacy,
    norm: float,
    *,
    unclipped: int,
    replies: int,
    cohort: int,
    generator: np.random.Generator,
) -> float:
    """Return the next clipping norm (Andrew et al., arXiv 1905.03871, Algorithm 1).

    ``C exp(-rate (b - quantile))``, where b is the noisy fraction of the updates
    within the norm; at least 1e-30 and at most 1e30, whatever the noise. A client that
    was drawn and did not reply moves it neither way.

    Parameters
    ----------
    privacy : Privacy
        Quantile, rate and noise of the count.
    norm : float
        C, the clipping norm of this round.
    unclipped : int
        Number of updates within it.
    replies : int
        Number of updates.
    cohort : int
        Clients drawn, or their expected number.
    generator : np.random.Generator
        Source of the noise.
    """
    noise = (
        generator.normal(0.0, privacy.count_noise) if privacy.noise_multiplier else 0
    )
    beyond = (unclipped - privacy.quantile * replies + noise) / cohort
    power = -privacy.quantile_rate * beyond
    moved = norm * exp(min(max(power, -_MOST_POWER), _MOST_POWER))
    return min(max(moved, LEAST_NORM), MOST_NORM)
