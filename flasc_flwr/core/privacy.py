"""Central differential privacy: clipped updates, and noise on their sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.ranges import choice, integer, number

CLIPS = ("after", "before")
"""When a client's update is clipped: after its largest entries were chosen, as in
FLASC's code, or before, by the client, and after it again."""

SAMPLINGS = ("fixed", "poisson")
"""How cohorts are drawn: a fixed number without replacement, or each client by itself
with the same probability."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """How much privacy, and at which price.

    The sum of updates, each of norm `clip_norm` at most, is given Gaussian noise of
    standard deviation ``noise_multiplier * clip_norm`` on every coordinate, and is
    divided by the size of the cohort that was drawn. A client is what is protected.

    Attributes
    ----------
    clip_norm : float
        L2 norm that an update is scaled down to, over the whole adapter; the first one
        where it adapts.
    noise_multiplier : float
        Standard deviation of the noise on the sum, in units of the clipping norm; 0
        clips alone, which is no privacy.
    population : int
        How many clients cohorts are drawn from, at least.
    delta : float, optional
        The delta that epsilon is told for, in (0, 1); by default
        ``population ** -1.1``.
    clip : str
        One of `CLIPS`.
    sampling : str
        How cohorts are drawn, one of `SAMPLINGS`.
    max_epsilon : float
        End the run before it would spend more; 0 is no bound.
    quantile : float
        Fraction of the updates that the clipping norm is to leave as they are, by which
        it adapts (Andrew et al., arXiv 1905.03871); 0 keeps it.
    quantile_rate : float
        How fast it adapts.
    count_noise : float
        Standard deviation of the noise on the number of updates left as they are, by
        which it adapts.
    noise_seed : int, optional
        Seed of noise and cohorts. Whoever knows it can take the noise off again: for
        experiments alone. By default both come from the operating system.

    Raises
    ------
    ValueError
        If one is out of range, or noise is asked for without a clipping norm.
    """

    clip_norm: float
    noise_multiplier: float
    population: int
    delta: float | None = None
    clip: str = "after"
    sampling: str = "fixed"
    max_epsilon: float = 0.0
    quantile: float = 0.0
    quantile_rate: float = 0.2
    count_noise: float = 1.0
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        number("[0, inf)").require("dp-noise-multiplier", self.noise_multiplier)
        if self.clip_norm == 0 and self.noise_multiplier > 0:
            raise ValueError(
                f"dp-noise-multiplier is {self.noise_multiplier!r} without a "
                "dp-clip-norm: noise on updates of any size is no privacy; allowed is "
                "a dp-clip-norm above 0"
            )
        number("(0, inf)").require("dp-clip-norm", self.clip_norm)
        # Whom a client could be one of is what the accounting is about.
        integer(1).require("dp-population", self.population)
        if self.delta is not None:
            number("(0, 1)").require("dp-delta", self.delta)
        choice(*CLIPS).require("dp-clip", self.clip)
        choice(*SAMPLINGS).require("dp-sampling", self.sampling)
        number("[0, inf)").require("dp-max-epsilon", self.max_epsilon)
        number("[0, 1)").require("dp-quantile", self.quantile)
        number("(0, inf)").require("dp-quantile-rate", self.quantile_rate)
        number("(0, inf)").require("dp-count-noise", self.count_noise)
        if self.noise_seed is not None:
            integer(0).require("dp-noise-seed", self.noise_seed)
        if self.max_epsilon and not self.noise_multiplier:
            raise ValueError(
                f"dp-max-epsilon is {self.max_epsilon!r} without noise, which spends "
                "more than any bound: allowed is a dp-noise-multiplier above 0"
            )
        if self.adapts and self.clip == "before":
            raise ValueError(
                f"dp-quantile is {self.quantile!r} with dp-clip 'before': the server "
                "does not see which updates were clipped; allowed is dp-clip 'after'"
            )
        if self.adapts and self.noise_multiplier and self.update_multiplier <= 0:
            raise ValueError(
                f"dp-count-noise is {self.count_noise!r}, which spends more than "
                f"all of dp-noise-multiplier {self.noise_multiplier!r}: allowed is "
                f"above {self.noise_multiplier / 2:.4g}"
            )

    @property
    def told_delta(self) -> float:
        """The delta that epsilon is told for."""
        if self.delta is not None:
            return self.delta
        # Of one client alone, 1 would be no probability.
        return float(max(2, self.population) ** -1.1)

    @property
    def adapts(self) -> bool:
        """Whether the clipping norm adapts."""
        return self.quantile > 0

    @property
    def update_multiplier(self) -> float:
        """Noise multiplier of the updates themselves.

        Where the clipping norm adapts, the count of clipped updates is a release of
        its own; the updates are given more noise, such that both together are one
        release of `noise_multiplier`: ``z_u = (z^-2 - (2 s)^-2)^-1/2`` (Andrew et
        al., Theorem 1). Negative if there is none left.
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
    """Return a mean of updates with noise, over the cohort that was drawn.

    ``(sum of updates + N(0, deviation^2)) / cohort`` on every coordinate: divided by
    the number that was drawn, so that fewer replies do not make the noise smaller.

    Parameters
    ----------
    mean : NDArray[np.float32], shape (N,)
        Mean over the replies.
    replies : int
        How many there were.
    cohort : int
        How many clients were drawn, or are in expectation.
    deviation : float
        Standard deviation of the noise on the sum.
    generator : np.random.Generator
        Where the noise comes from.
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

    ``C exp(-rate (b - quantile))``, where b is the noisy fraction of the updates that
    were within the norm.

    Parameters
    ----------
    privacy : Privacy
        Quantile, rate and the noise of the count.
    norm : float
        C, the clipping norm of this round.
    unclipped : int
        How many updates were within it.
    replies : int
        How many updates there were.
    cohort : int
        How many clients were drawn, or are in expectation.
    generator : np.random.Generator
        Where the noise comes from.
    """
    # Each counts one half more or less, which halves what one client can change.
    noise = (
        generator.normal(0.0, privacy.count_noise) if privacy.noise_multiplier else 0
    )
    fraction = 0.5 + (unclipped - replies / 2 + noise) / cohort
    return norm * exp(-privacy.quantile_rate * (fraction - privacy.quantile))
