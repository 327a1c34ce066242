"""Central differential privacy: clipped updates with noise on their sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.ranges import choice, integer, number
from flasc_flwr.core.settings import REQUIRED, check, setting

_SMALLEST = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)

CLIPS = ("after", "before")
"""When a client's update is clipped: after its largest entries were chosen, as in
FLASC's code, or before (by the client, and again after by the server)."""

SAMPLINGS = ("fixed", "poisson")
"""How cohorts are drawn: a fixed number without replacement, or each client
independently with the same probability."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Settings of differential privacy, with a client as the unit of privacy.

    Updates are clipped to the norm `clip_norm`. Their sum gets Gaussian noise of
    standard deviation ``noise_multiplier * clip_norm`` on every coordinate, and is
    divided by the size of the cohort that was drawn.

    Attributes
    ----------
    clip_norm : float
        L2 norm that an update is scaled down to, over the whole adapter; where it
        adapts, the initial one.
    noise_multiplier : float
        Standard deviation of the noise on the sum, in units of the clipping norm; 0
        only clips, which is not private.
    population : int
        Smallest number of clients that cohorts are drawn from.
    delta : float, optional
        The delta at which epsilon is reported; by default ``population ** -1.1``.
    clip : str
        One of `CLIPS`.
    sampling : str
        How cohorts are drawn, one of `SAMPLINGS`.
    max_epsilon : float
        Stop before the run would spend more; 0 is unlimited.
    quantile : float
        Quantile of the updates' norms that the clipping norm adapts to (Andrew et al.,
        arXiv 1905.03871); 0 keeps it fixed.
    quantile_rate, count_noise : float
        How fast the norm adapts, and the standard deviation of the noise on the number
        of unclipped updates, which it adapts by.
    noise_seed : int, optional
        Seed of noise and cohorts, for experiments only: anyone who knows it can remove
        the noise. By default both come from the operating system.

    Raises
    ------
    ValueError
        If one is out of range, or two do not fit together.
    """

    clip_norm: float = setting(
        REQUIRED,
        number("(0, inf)"),
        "L2 norm that every update is scaled down to; 0 turns privacy off",
        key="dp-clip-norm",
        off=0.0,
    )
    noise_multiplier: float = setting(
        REQUIRED,
        number("[0, inf)"),
        "standard deviation of the noise on the sum of the updates; 0 only clips",
        key="dp-noise-multiplier",
        unit="dp-clip-norm",
        off=0.0,
    )
    population: int = setting(
        REQUIRED,
        integer(1),
        "smallest number of clients that cohorts are drawn from",
        key="dp-population",
        unit="clients",
        off=0,
    )
    delta: float | None = setting(
        None,
        number("(0, 1)"),
        "delta at which epsilon is reported; auto is dp-population^-1.1",
        key="dp-delta",
        off="auto",
    )
    clip: str = setting(
        "after", choice(*CLIPS), "clip after or before selecting entries", key="dp-clip"
    )
    sampling: str = setting(
        "fixed", choice(*SAMPLINGS), "how cohorts are drawn", key="dp-sampling"
    )
    max_epsilon: float = setting(
        0.0,
        number("[0, inf)"),
        "stop before the run would spend more; 0 is unlimited",
        key="dp-max-epsilon",
    )
    quantile: float = setting(
        0.0,
        number("[0, 1)"),
        "quantile of the updates' norms that dp-clip-norm adapts to; 0 keeps it fixed",
        key="dp-quantile",
    )
    quantile_rate: float = setting(
        0.2, number("(0, inf)"), "how fast the norm adapts", key="dp-quantile-rate"
    )
    count_noise: float = setting(
        1.0,
        number("(0, inf)"),
        "standard deviation of the noise on the number of unclipped updates, for "
        "dp-quantile",
        key="dp-count-noise",
    )
    noise_seed: int | None = setting(
        None,
        integer(0),
        "seed of noise and cohorts, for experiments only: anyone who knows it can "
        "remove the noise; auto draws from the operating system",
        key="dp-noise-seed",
        off="auto",
    )

    def __post_init__(self) -> None:
        """Check the settings, and that they fit together."""
        if self.clip_norm == 0 and self.noise_multiplier != 0:
            raise ValueError(
                f"dp-noise-multiplier is {self.noise_multiplier!r} without a "
                "dp-clip-norm: noise on unbounded updates is not private; set a "
                "dp-clip-norm above 0"
            )
        check(self)
        if self.max_epsilon and not self.noise_multiplier:
            raise ValueError(
                f"dp-max-epsilon is {self.max_epsilon!r} without noise: set a "
                "dp-noise-multiplier above 0"
            )
        if self.adapts and self.clip == "before":
            raise ValueError(
                f"dp-quantile is {self.quantile!r} with dp-clip 'before', where the "
                "server does not see which updates were clipped: set dp-clip 'after'"
            )
        if self.adapts and self.noise_multiplier and self.update_multiplier <= 0:
            raise ValueError(
                f"dp-count-noise must be above {self.noise_multiplier / 2:.4g}, half "
                f"of dp-noise-multiplier, got {self.count_noise!r}"
            )

    @property
    def reported_delta(self) -> float:
        """The delta at which epsilon is reported."""
        if self.delta is not None:
            return self.delta
        # With a population of 1, delta would be 1, which says nothing.
        return float(max(2, self.population) ** -1.1)

    @property
    def adapts(self) -> bool:
        """Whether the clipping norm adapts."""
        return self.quantile > 0

    @property
    def update_multiplier(self) -> float:
        """Noise multiplier of the updates themselves.

        Where the clipping norm adapts, the count of clipped updates is released too.
        The updates get more noise, so that both together count as one release of
        `noise_multiplier`: ``z_u = (z^-2 - (2 s)^-2)^-1/2`` (Andrew et al.,
        Theorem 1). Negative if the count spends more than that.
        """
        if not self.adapts or not self.noise_multiplier:
            return self.noise_multiplier
        rest = self.noise_multiplier**-2 - (2 * self.count_noise) ** -2
        return float(rest**-0.5) if rest > 0 else -1.0


def released(
    mean: Vector,
    *,
    replies: int,
    cohort: int,
    deviation: float,
    generator: np.random.Generator,
) -> Vector:
    """Return the noisy mean of updates, over the cohort that was drawn.

    ``(sum of updates + N(0, deviation^2)) / cohort`` on every coordinate: divided by
    the number that was drawn, so that fewer replies do not mean less noise.

    Parameters
    ----------
    mean : NDArray[np.float32], shape (N,)
        Mean over the replies.
    replies : int
        Number of replies.
    cohort : int
        Clients drawn, or their expected number.
    deviation : float
        Standard deviation of the noise on the sum.
    generator : np.random.Generator
        Source of the noise.
    """
    total = mean.astype(np.float64) * replies
    total += generator.normal(0.0, deviation, len(mean))
    return np.asarray(total / cohort, np.float32)


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
    within the norm. With a high rate and much noise that can be any number: the result
    stays within the range of float32, so that it can grow and shrink again.

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
    # Each counts as plus or minus one half, which halves the effect of one client.
    noise = (
        generator.normal(0.0, privacy.count_noise) if privacy.noise_multiplier else 0
    )
    fraction = 0.5 + (unclipped - replies / 2 + noise) / cohort
    norm = max(norm, _SMALLEST)
    change = -privacy.quantile_rate * (fraction - privacy.quantile)
    if log(_SMALLEST) < log(norm) + change < log(_LARGEST):
        return norm * exp(change)
    return _SMALLEST if change < 0 else _LARGEST
