"""Values compared with their cohort's median, one by one."""

from math import inf

import numpy as np
import pytest

from flasc_flwr.core.outliers import ENOUGH, RATIO, MedianBound, capped_weights


def through(values, ratio=10.0):
    """Return the items in the order they leave, and the bound of each."""
    bound = MedianBound(ratio)
    out = []
    for index, value in enumerate(values):
        out += bound.take(index, value)
        assert bound.held < ENOUGH or 0 in values
    out += bound.rest()
    assert [index for index, _ in out] == list(range(len(values)))
    return [largest for _, largest in out]


def test_fewer_than_five_have_no_bound():
    assert through([1.0, 2.0, 1e30, 3.0]) == [inf] * 4


def test_the_first_five_are_compared_with_their_common_median():
    assert through([1e30, 1.0, 2.0, 3.0, 4.0]) == [30.0] * 5


def test_each_further_one_is_compared_with_the_median_of_those_within():
    # 1e30 is not counted: the median of 1, 2, 3, 4 is 2.5, and with 9 it is 3.
    values = [1e30, 1.0, 2.0, 3.0, 4.0, 9.0, 1e29, 5.0]
    assert through(values) == [30.0] * 5 + [25.0, 30.0, 30.0]


def test_zeros_are_never_counted_and_keep_their_place():
    values = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 50.0, 0.0]
    assert through(values) == [10.0] * 9
    assert through([0.0] * 20) == [inf] * 20


def test_the_ratio_0_is_no_bound_and_holds_nothing():
    bound = MedianBound(0.0)
    assert list(bound.take("a", 1e30)) == [("a", inf)] and bound.held == 0


def test_a_minority_of_any_sizes_never_excludes_the_others():
    rng = np.random.default_rng(0)
    for _ in range(200):
        honest = rng.uniform(1.0, 9.0, 13)
        hostile = 10.0 ** rng.uniform(-30, 30, 2)
        values = np.concatenate([honest, hostile])
        order = rng.permutation(len(values))
        bounds = through(list(values[order]))
        for place, largest in zip(order, bounds, strict=True):
            assert place >= 13 or values[place] <= largest


def test_weights_are_capped_by_their_median():
    assert capped_weights([1, 2, 3, 4, 1e308], 10.0) == [1, 2, 3, 4, 30.0]
    assert capped_weights([1, 2, 3, 1e308], 10.0) == [1, 2, 3, 1e308]
    assert capped_weights([1, 2, 3, 4, 1e308], 0.0) == [1, 2, 3, 4, 1e308]
    assert capped_weights([1e308] * 6, 1.0) == [1e308] * 6
    assert capped_weights([], 10.0) == []


@pytest.mark.parametrize("ratio", [-1.0, 0.5, inf, float("nan"), "10"])
def test_a_ratio_is_0_or_at_least_1(ratio):
    with pytest.raises(ValueError, match="x must be 0 or a number in"):
        RATIO.require("x", ratio)
    assert RATIO.require("x", 0) == 0 and RATIO.require("x", 1) == 1
