import pytest

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.flower.clients.roster import Participant
from flasc_flwr.flower.clients.sampling import Sampling

BUDGET = Budget(download_density=0.5, upload_density=0.25)


def sampling(**settings):
    usual = {
        "seed": 0,
        "fraction_train": 0.3,
        "fraction_evaluate": 0.3,
        "min_train_nodes": 0,
        "min_evaluate_nodes": 0,
        "min_available_nodes": 1,
    }
    return Sampling(**usual | settings)


def everyone(count):
    return [Participant(node_id=i, name=str(i), budget=BUDGET) for i in range(count)]


@pytest.mark.parametrize(
    ("fraction", "at_least", "count"),
    [(0.5, 0, 5), (0.59, 0, 5), (0.1, 3, 3), (1.0, 0, 10), (0.1, 99, 10), (0.0, 5, 0)],
)
def test_cohorts_have_the_right_size_and_nobody_twice(fraction, at_least, count):
    drawn = sampling(fraction_train=fraction, min_train_nodes=at_least)
    cohort = drawn.training(everyone(10), 1)
    assert len(cohort) == len(set(cohort)) == count


def test_an_oversample_beyond_all_nodes_draws_all_of_them():
    drawn = sampling(fraction_train=0.5, oversample=1e308)
    cohort = drawn.training(everyone(10), 1)
    assert (len(set(cohort)), drawn.enough(cohort)) == (10, 1)
    assert sampling(fraction_train=0.0, oversample=9).training([], 1) == []


def test_everyone_is_drawn_equally_often():
    times = [0] * 10
    for current in range(2000):
        for participant in sampling().training(everyone(10), current):
            times[participant.node_id] += 1
    # 600 expected each, standard deviation about 20.
    assert all(500 < count < 700 for count in times)


def test_those_who_evaluate_are_not_always_those_who_train():
    nodes = everyone(10)
    trains = [sampling().training(nodes, i) for i in range(20)]
    evaluates = [sampling().evaluating(nodes, i) for i in range(20)]
    assert trains != evaluates
    assert trains == [sampling().training(nodes, i) for i in range(20)]


def test_everyone_trains_where_the_method_asks_for_it():
    cohort = sampling().training(everyone(10), 1, everyone=True)
    assert len(set(cohort)) == 10


@pytest.mark.parametrize("oversample", [1.1, 1.25, 1.5, 2.0, 2.7])
@pytest.mark.parametrize("needed", [1, 2, 3, 5, 10, 20])
def test_a_round_waits_for_as_many_as_without_oversample(oversample, needed):
    draws = sampling(fraction_train=0.01, min_train_nodes=needed, oversample=oversample)
    cohort = draws.training(everyone(100), 1)
    assert needed * oversample <= len(cohort) + 1e-9 < needed * oversample + 1
    assert draws.enough(cohort) == needed


def test_a_cohort_that_is_too_small_is_oversampled_all_the_same():
    draws = sampling(fraction_train=1.0, oversample=1.5)
    assert draws.enough(draws.training(everyone(5), 1)) == 3
    assert draws.enough(draws.training(everyone(1), 1)) == 1
