"""Clipping and noise, as formulas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.clipping import clip_to_norm
from flasc_flwr.core.noise import adapted_norm, released
from flasc_flwr.core.privacy import Privacy


def norm(values):
    return float(np.sqrt(np.square(values.astype(np.float64)).sum()))


updates = arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)


@given(updates, st.floats(1e-6, 1e6))
def test_the_bound_is_never_exceeded(update, bound):
    after = clip_to_norm(update, bound)
    assert norm(after) <= bound
    if norm(update) <= bound:
        np.testing.assert_array_equal(after, update)
    else:
        expected = update * (bound / norm(update))
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-40)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_cannot_be_clipped(value):
    with pytest.raises(ValueError, match="cannot be clipped"):
        clip_to_norm(np.array([1, value], np.float32), 1.0)


def test_the_noise_on_the_mean_has_the_deviation_of_the_formula():
    """``z C / cohort`` on every coordinate, over 1,000 seeded draws of a round."""
    z, bound, cohort, replies, size = 1.3, 0.7, 20, 15, 50
    mean = np.linspace(-1, 1, size, dtype=np.float32)
    draws = np.array(
        [
            released(
                mean.astype(np.float64) * replies,
                cohort=cohort,
                deviation=z * bound,
                generator=np.random.default_rng(seed),
            )
            for seed in range(1000)
        ]
    )
    noise = draws - mean.astype(np.float64) * replies / cohort
    expected = z * bound / cohort
    assert noise.std() == pytest.approx(expected, rel=0.02)
    # Every coordinate has it, and on average none is moved: five standard errors.
    assert np.abs(noise.std(axis=0) / expected - 1).max() < 5 / np.sqrt(2 * 1000)
    assert np.abs(noise.mean(axis=0)).max() < 5 * expected / np.sqrt(1000)


def test_updates_get_more_noise_where_their_count_is_released_too():
    """Andrew et al., Theorem 1: both releases together are one of multiplier z."""
    privacy = Privacy(
        clip_norm=1, noise_multiplier=0.8, population=100, quantile=0.5, count_noise=2
    )
    z_u = privacy.update_multiplier
    assert z_u > 0.8
    assert z_u**-2 + (2 * 2) ** -2 == pytest.approx(0.8**-2)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("sampling", "sums"), [("fixed", 2), ("poisson", 1)])
def test_no_client_moves_sum_and_count_by_more_than_is_accounted(
    quantile, sampling, sums
):
    """In units of the noise: at most that many norms' worth of multiplier z."""
    privacy = Privacy(
        clip_norm=1,
        noise_multiplier=0.8,
        population=100,
        quantile=quantile,
        count_noise=2,
        sampling=sampling,
    )

    def count(unclipped, replies):
        norm = adapted_norm(
            replace(privacy, noise_multiplier=0),
            1.0,
            unclipped=unclipped,
            replies=replies,
            cohort=1,
            generator=np.random.default_rng(0),
        )
        return np.log(norm) / -privacy.quantile_rate

    # Without one client, with it within the norm, and with it beyond.
    without, within, beyond = count(3, 9), count(4, 10), count(3, 10)
    moved = [abs(within - without), abs(beyond - without)]
    if sampling == "fixed":  # one is replaced by another
        moved.append(abs(within - beyond))
    together = np.hypot(sums / privacy.update_multiplier, max(moved) / 2)
    assert together == pytest.approx(sums / 0.8, rel=1e-6)


def adapt(privacy, start, norms, rounds, cohort=None):
    """Let the norm adapt to updates of fixed norms."""
    bound = start
    for current in range(rounds):
        bound = adapted_norm(
            privacy,
            bound,
            unclipped=sum(n <= bound for n in norms),
            replies=len(norms),
            cohort=cohort or len(norms),
            generator=np.random.default_rng(current),
        )
    return bound


@pytest.mark.parametrize(
    ("start", "unclipped", "expected"), [(1.0, 0, 1e30), (1.0, 9, 1e-30)]
)
def test_a_norm_that_leaps_stays_a_number(start, unclipped, expected):
    """It was too large for a float, or 0, of which no noise is left."""
    privacy = Privacy(
        clip_norm=1,
        noise_multiplier=0,
        population=9,
        quantile=0.5,
        quantile_rate=1e200,
    )
    after = adapted_norm(
        privacy,
        start,
        unclipped=unclipped,
        replies=9,
        cohort=9,
        generator=np.random.default_rng(0),
    )
    assert after == pytest.approx(expected)


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_norm_finds_the_quantile(start):
    norms = np.random.default_rng(0).lognormal(0, 1, 400)
    privacy = Privacy(
        clip_norm=1, noise_multiplier=1, population=400, quantile=0.7, count_noise=8
    )
    assert adapt(privacy, start, norms, 200) == pytest.approx(
        np.quantile(norms, 0.7), rel=0.15
    )


@pytest.mark.parametrize("cohort", [800, 130])
def test_the_norm_finds_the_quantile_of_those_that_reply(cohort):
    """Where half did not reply it grew for ever; with too many it stayed too small."""
    norms = np.random.default_rng(0).lognormal(0, 1, 400)
    privacy = Privacy(
        clip_norm=1, noise_multiplier=1, population=400, quantile=0.9, count_noise=8
    )
    assert adapt(privacy, 1.0, norms, 400, cohort) == pytest.approx(
        np.quantile(norms, 0.9), rel=0.15
    )


@pytest.mark.parametrize("rate", [1e3, 1e300])
@pytest.mark.parametrize("unclipped", [0, 10])
def test_the_norm_stays_a_number_above_zero_at_any_rate(rate, unclipped):
    """It was an OverflowError, or zero, from which no norm returns."""
    privacy = Privacy(
        clip_norm=1, noise_multiplier=0, population=10, quantile=0.5, quantile_rate=rate
    )
    norm = 1.0
    generator = np.random.default_rng(0)
    for unclipped_now in (unclipped, unclipped, 10 - unclipped):
        norm = adapted_norm(
            privacy,
            norm,
            unclipped=unclipped_now,
            replies=10,
            cohort=10,
            generator=generator,
        )
        assert 0 < norm <= np.finfo(np.float32).max
        assert (norm < 1) == (unclipped_now == 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": 0, "noise_multiplier": 1}, "without a dp-clip-norm"),
        ({"population": 0}, "dp-population must be .*, got 0"),
        ({"noise_multiplier": -1}, "dp-noise-multiplier must be .*, got -1"),
        ({"delta": 1.0}, "dp-delta must be .*, got 1.0"),
        ({"clip": "never"}, "dp-clip must be one of 'after', 'before'"),
        ({"sampling": "all"}, "dp-sampling must be .*, got 'all'"),
        ({"quantile": 1.0}, "dp-quantile must be .*, got 1.0"),
        (
            {"quantile": 0.5, "count_noise": 0.2},
            "dp-count-noise must be above 0.5, .*got 0.2",
        ),
        ({"quantile": 0.5, "clip": "before"}, "does not see which updates"),
        ({"noise_multiplier": 0, "max_epsilon": 8}, "without noise"),
        ({"noise_seed": -3}, "dp-noise-seed must be .*, got -3"),
        # Of these, the accounting computed an epsilon of 0, or failed.
        ({"noise_multiplier": 1e-160}, "dp-noise-multiplier must be .*, got 1e-160"),
        ({"noise_multiplier": 1e9}, "dp-noise-multiplier must be .*, got 1000000000.0"),
        (
            {"noise_multiplier": 1e-200, "quantile": 0.5},
            "dp-noise-multiplier must be .*, got 1e-200",
        ),
        (
            {"noise_multiplier": 0, "quantile": 0.5, "count_noise": 1e-200},
            "dp-count-noise must be .*, got 1e-200",
        ),
        ({"clip_norm": 1e-45}, "dp-clip-norm must be .*, got 1e-45"),
        ({"clip_norm": 1e300}, r"dp-clip-norm must be .*, got 1e\+300"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    usual = {"clip_norm": 1.0, "noise_multiplier": 1.0, "population": 100}
    with pytest.raises(ValueError, match=message):
        Privacy(**usual | settings)
