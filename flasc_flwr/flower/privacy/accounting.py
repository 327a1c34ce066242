"""Accounting: epsilon of a run's releases, and the noise for a given epsilon.

Uses the analyses of dp-accounting through Flower's accountant.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil

from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    RdpAccountant,
    SamplingMethod,
)

from flasc_flwr.core.privacy import LEAST_MULTIPLIER, MOST_MULTIPLIER, Privacy
from flasc_flwr.core.ranges import integer, number

_PRECISION = 1e-4

# It logs for each release which orders it leaves out. That makes the bound looser,
# never wrong, and does not help in a run's log.
logging.getLogger("absl").setLevel(logging.ERROR)

# A sample of fixed size does not depend on the number of clients: two populations are
# neighbours if one client is replaced, which can move the sum by twice the norm.
_ANALYSES = {
    "fixed": (SamplingMethod.WITHOUT_REPLACEMENT, NeighboringRelation.REPLACE_ONE, 2),
    "poisson": (SamplingMethod.POISSON, NeighboringRelation.ADD_OR_REMOVE_ONE, 1),
}


def accountant(privacy: Privacy) -> RdpAccountant:
    """Return an accountant without any release.

    Raises
    ------
    ImportError
        If dp-accounting is not installed.
    """
    sampling, neighbours, _ = _ANALYSES[privacy.sampling]
    try:
        return RdpAccountant(
            PrivacyConfig(
                target_delta=privacy.reported_delta,
                population_size=privacy.population,
                neighboring_relation=neighbours,
                sampling_method=sampling,
            )
        )
    except ImportError:
        raise ImportError(
            "differential privacy needs the extra 'dp': pip install 'flasc-flwr[dp]'"
        ) from None


def spent(privacy: Privacy, releases: Mapping[GaussianPrivacyEvent, int]) -> float:
    """Return the epsilon of a number of releases of each kind.

    Takes time in proportion to the kinds, not to the releases.
    """
    ledger = accountant(privacy)
    for release, count in releases.items():
        ledger.compose(release, count)
    return float(ledger.get_epsilon(privacy.reported_delta))


def release_of(privacy: Privacy, cohort: int) -> GaussianPrivacyEvent:
    """Return the release of one round with a cohort of `cohort` clients.

    Raises
    ------
    ValueError
        If the cohort is larger than the population.
    """
    _, _, moved = _ANALYSES[privacy.sampling]
    if cohort > privacy.population:
        raise ValueError(
            f"dp-population must be >= the cohort's size, {cohort}, got "
            f"{privacy.population}"
        )
    return GaussianPrivacyEvent(
        noise_multiplier=privacy.noise_multiplier / moved,
        sample_size=cohort,
        population_size=privacy.population,
    )


def cohort_of(privacy: Privacy, fraction: float, *, at_least: int) -> int:
    """Return the size of a cohort; the expected one if Poisson.

    It follows from dp-population, so neither depends on who is online: what a round
    spends, and what the sum of its updates is divided by.

    Parameters
    ----------
    privacy : Privacy
        Population and sampling.
    fraction : float
        Fraction of the clients that train in a round.
    at_least : int
        Smallest cohort of fixed size.
    """
    if privacy.sampling == "fixed":
        return max(at_least, int(fraction * privacy.population))
    # Rounded up: a larger sample never spends less.
    return max(1, ceil(fraction * privacy.population - 1e-9))


def noise_for(
    epsilon: float,
    *,
    rounds: int,
    cohort: int,
    population: int,
    delta: float | None = None,
    sampling: str = "fixed",
) -> float:
    """Return the smallest noise multiplier that spends at most `epsilon`.

    Parameters
    ----------
    epsilon : float
        The bound.
    rounds : int
        Number of rounds.
    cohort, population : int
        Clients that a round draws (the expected number if Poisson), and clients in
        all.
    delta : float, optional
        As for :class:`~flasc_flwr.core.privacy.Privacy`.
    sampling : str
        As there.

    Raises
    ------
    ValueError
        If a number is out of range, or no noise spends so little.
    ImportError
        If dp-accounting is not installed.
    """
    number("(0, inf)").require("epsilon", epsilon)
    integer(1).require("rounds", rounds)
    integer(1).require("cohort", cohort)

    def spent_with(multiplier: float) -> float:
        privacy = Privacy(
            clip_norm=1.0,
            noise_multiplier=multiplier,
            population=population,
            delta=delta,
            sampling=sampling,
        )
        return spent(privacy, {release_of(privacy, cohort): rounds})

    low, most = LEAST_MULTIPLIER, MOST_MULTIPLIER
    high = 1.0
    while (least := spent_with(high)) > epsilon:
        if high == most:
            raise ValueError(
                f"epsilon must be >= {least:.4g}, which a dp-noise-multiplier of "
                f"{most:g} spends at this delta, got {epsilon!r}"
            )
        low, high = high, min(2 * high, most)
    # Halving the interval never ends above `epsilon`, as `high` is always enough.
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if spent_with(middle) > epsilon:
            low = middle
        else:
            high = middle
    return high
