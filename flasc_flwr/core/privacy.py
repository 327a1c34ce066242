"""Settings of central differential privacy: clipped updates, noise on their sum."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import choice, either, integer, number
from flasc_flwr.core.settings import REQUIRED, check, setting

CLIPS = ("after", "before")
"""When a client's update is clipped: after its largest entries were chosen, as in
FLASC's code, or before (by the client, and again after by the server)."""

SAMPLINGS = ("fixed", "poisson")
"""How cohorts are drawn: a fixed number without replacement, or each client
independently with the same probability."""

LEAST_NORM, MOST_NORM = 1e-30, 1e30
"""Bounds of a clipping norm: float32 holds updates within it, and their noise."""

LEAST_MULTIPLIER, MOST_MULTIPLIER = 1e-6, 1e6
"""Noise multipliers that the accounting is reliable for. Of less noise than 1e-150 it
computes an epsilon of 0, and of more than 1e9 none."""

_MULTIPLIERS = number("[1e-6, 1e6]")


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
        number("[1e-30, 1e30]"),
        "L2 norm that every update is scaled down to; 0 turns privacy off",
        key="dp-clip-norm",
        off=0.0,
    )
    noise_multiplier: float = setting(
        REQUIRED,
        either(0.0, _MULTIPLIERS),
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
        _MULTIPLIERS,
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
            effect = self._effect_on_count
            raise ValueError(
                f"dp-count-noise must be above {self.noise_multiplier * effect:.4g}, "
                f"{effect:.4g} times dp-noise-multiplier, got {self.count_noise!r}"
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

        Where the clipping norm adapts, the count of unclipped updates is released too.
        The updates get more noise, so that both together count as one release of
        `noise_multiplier`: ``z_u = (z^-2 - (g / s)^2)^-1/2`` (Andrew et al., Theorem
        1), where g is the effect of one client on the count. Negative if the count
        spends more than that.
        """
        if not self.adapts or not self.noise_multiplier:
            return self.noise_multiplier
        count = self._effect_on_count / self.count_noise
        rest = self.noise_multiplier**-2 - count**2
        return float(rest**-0.5) if rest > 0 else -1.0

    @property
    def _effect_on_count(self) -> float:
        """How far one client moves the count, where it moves the sum by 1 norm.

        An update counts as 1 - quantile if it is within the norm, else as -quantile.
        """
        if self.sampling == "fixed":  # replacing a client moves the sum by 2 norms
            return 1 / 2
        return max(self.quantile, 1 - self.quantile)
