"""Clipping and noise, as formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.clipping import clip_to_norm
from flasc_flwr.core.privacy import Privacy, adapted_norm, released


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
                mean,
                replies=replies,
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


def adapt(privacy, start, norms, rounds):
    """Let the norm adapt to updates of fixed norms."""
    bound = start
    for current in range(rounds):
        bound = adapted_norm(
            privacy,
            bound,
            unclipped=sum(n <= bound for n in norms),
            replies=len(norms),
            cohort=len(norms),
            generator=np.random.default_rng(current),
        )
    return bound


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_norm_finds_the_quantile(start):
    norms = np.random.default_rng(0).lognormal(0, 1, 400)
    privacy = Privacy(
        clip_norm=1, noise_multiplier=1, population=400, quantile=0.7, count_noise=8
    )
    assert adapt(privacy, start, norms, 200) == pytest.approx(
        np.quantile(norms, 0.7), rel=0.15
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
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    usual = {"clip_norm": 1.0, "noise_multiplier": 1.0, "population": 100}
    with pytest.raises(ValueError, match=message):
        Privacy(**usual | settings)
