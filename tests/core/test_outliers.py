"""Values compared with their cohort's median, one by one."""

from math import inf

import numpy as np
import pytest

from flasc_flwr.core.outliers import MOST_HELD, RATIO, MedianBound, capped_weights


def through(values, ratio=10.0):
    """Return (index, bound) of the items in the order in which they leave."""
    bound = MedianBound(ratio)
    out = []
    for index, value in enumerate(values):
        out += bound.take(index, value)
        assert bound.held <= MOST_HELD or 0 in values
    out += bound.rest()
    assert sorted(index for index, _ in out) == list(range(len(values)))
    return out


def test_fewer_than_five_have_no_bound():
    assert through([1.0, 2.0, 1e30, 3.0]) == [(i, inf) for i in range(4)]


def test_the_first_five_are_compared_with_their_common_median():
    # The outlier leaves last.
    expected = [(1, 30.0), (2, 30.0), (3, 30.0), (4, 30.0), (0, 30.0)]
    assert through([1e30, 1.0, 2.0, 3.0, 4.0]) == expected


def test_each_further_one_is_compared_with_the_median_so_far():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 30.0, 36.0]
    assert through(values) == [(i, 30.0) for i in range(5)] + [(5, 35.0), (6, 40.0)]


def test_an_outlier_of_the_first_is_none_of_the_whole_cohort():
    """50 is 25 times the median of the first five, and 5 times that of all."""
    values = [1.0, 1.0, 2.0, 2.0, 2.0, 50.0, *[10.0] * 9]
    out = through(values)
    order = [index for index, _ in out]
    # It leaves as soon as the median of those so far allows it.
    assert order.index(5) > 5 and order != list(range(15))
    assert all(values[index] <= largest for index, largest in out)
    others = [index for index in order if index != 5]
    assert others == sorted(others)


def test_zeros_are_never_counted_and_keep_their_place():
    values = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 5.0, 0.0]
    assert through(values) == [(0, inf)] + [(i, 10.0) for i in range(1, 9)]
    bound = MedianBound(10.0)
    assert list(bound.take("a", 0.0)) == [("a", inf)] and bound.held == 0
    assert through([0.0] * 20) == [(i, inf) for i in range(20)]


def test_memory_is_bounded_however_many_outliers_there_are():
    values = [1.0] * 60
    values[5:45:2] = [1e9 + i for i in range(20)]
    out = through(values)
    kept = [index for index, largest in out if values[index] <= largest]
    assert kept == [index for index in range(60) if values[index] == 1.0]


def test_the_ratio_0_is_no_bound_and_holds_nothing():
    bound = MedianBound(0.0)
    assert list(bound.take("a", 1e30)) == [("a", inf)] and bound.held == 0


def test_a_minority_of_any_sizes_never_excludes_the_others():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = np.concatenate(
            [rng.uniform(1.0, 9.0, 13), 10.0 ** rng.uniform(-30, 30, 2)]
        )
        order = rng.permutation(len(values))
        for place, largest in through(list(values[order])):
            assert order[place] >= 13 or values[order[place]] <= largest


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
