from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.app.search.candidates import Candidate, Limits, Measured, Result
from flasc_flwr.app.search.search import SearchError, decide, most_accurate, search


class Surface:
    """Short runs whose accuracy and cost are functions; every run is counted."""

    def __init__(self, accuracy, cost=lambda c: c.rank * c.density):
        self.accuracy, self.cost, self.runs = accuracy, cost, []

    def __call__(self, candidates, seeds):
        self.runs += [(c, seed) for c in candidates for seed in seeds]
        return {
            c: [Result(self.accuracy(c, seed), self.cost(c)) for seed in seeds]
            for c in candidates
        }


def path(start, limits, probe, seeds=(0,)):
    steps = list(search(start, limits, seeds, probe))
    assert [step.chosen is None for step in steps] == [False] * (len(steps) - 1) + [
        True
    ]
    assert all(a.next == b.at for a, b in pairwise(steps))
    assert (steps[0].chosen, steps[0].next) == ("start", start)
    del steps[0]
    return [(s.at.rank, s.at.density) for s in steps], steps


def saturating(candidate, seed):
    """Rank helps up to 8, density up to 1/4; the rank helps more."""
    return 0.1 * min(candidate.rank, 8) + min(candidate.density, 0.25)


def test_the_path_to_a_known_optimum():
    limits = Limits(max_rank=64, megabytes=2.0)
    found, steps = path(Candidate(2, 1 / 16), limits, Surface(saturating))
    # The rank wins until 8, where more of it is worth nothing; then the density, until
    # both raises of rank 8 and density 1/4 cost 4.
    assert found == [(2, 1 / 16), (4, 1 / 16), (8, 1 / 16), (8, 1 / 8), (8, 1 / 4)]
    last = steps[-1].reason
    assert last.startswith("nothing left to raise: rank 16, density 0.25")
    assert "costs 4 MB" in last and "budget of 2 MB" in last


def test_ranks_and_densities_end_at_their_limits():
    limits = Limits(max_rank=6, megabytes=100.0)
    found, steps = path(Candidate(3, 0.4), limits, Surface(saturating))
    assert found == [(3, 0.4), (6, 0.4), (6, 0.8), (6, 1.0)]
    assert "only density can be raised" in steps[1].reason
    assert "rank and density are at their maximum" in steps[-1].reason


def test_seeds_are_compared_by_their_means():
    def noisy(candidate, seed):
        # By the first seed alone the density would win.
        gain = {0: -0.1, 1: 0.2, 2: 0.2}[seed]
        return 0.5 + (gain if candidate.rank == 4 else 0.0)

    limits = Limits(max_rank=64, megabytes=0.5)
    one, _ = path(Candidate(2, 1 / 8), limits, Surface(noisy))
    three, steps = path(Candidate(2, 1 / 8), limits, Surface(noisy), (0, 1, 2))
    assert (one[1], three[1]) == ((2, 1 / 4), (4, 1 / 8))
    # -0.1, 0.2, 0.2: mean 0.1, standard deviation 0.1732, over the root of 3 it is 0.1.
    assert "means of 3 seeds, standard error 0.1000" in steps[0].reason


def test_what_costs_too_much_is_run_with_one_seed_and_what_lies_beyond_it_not_at_all():
    # A raise of the rank costs nothing, one of the density too much.
    surface = Surface(saturating, cost=lambda c: c.density)
    limits = Limits(max_rank=8, megabytes=0.25)
    found, steps = path(Candidate(2, 0.25), limits, surface, (0, 1, 2))
    assert found == [(2, 0.25), (4, 0.25), (8, 0.25)]
    assert [c for c, _ in surface.runs if c.density == 0.5] == [Candidate(2, 0.5)]
    assert all(seed == 0 for _, seed in surface.runs)
    assert "rank 8, density 0.5 exceeds the budget" in steps[-1].reason


@pytest.mark.parametrize(
    ("rank", "density", "chosen"),
    [
        ((0.6, 2.0), (0.5, 1.0), "rank"),
        ((0.5, 1.0), (0.6, 2.0), "density"),
        ((0.5, 1.0), (0.5, 2.0), "rank"),
        ((0.5, 2.0), (0.5, 1.0), "density"),
        ((0.5, 1.0), (0.5, 1.0), "density"),
    ],
)
def test_decisions(rank, density, chosen):
    found = decide(
        Measured(Candidate(4, 0.25), (Result(*rank),)),
        Measured(Candidate(2, 0.5), (Result(*density),)),
    )
    assert found[0] == chosen


@given(
    st.integers(1, 9),
    st.floats(0.01, 1),
    st.integers(1, 40),
    st.floats(0.1, 50),
    st.randoms(use_true_random=False),
)
def test_every_search_ends_within_its_limits(rank, density, top, budget, random):
    table = {}
    surface = Surface(lambda c, s: table.setdefault((c, s), random.random()))
    start, limits = Candidate(rank, density), Limits(max_rank=top, megabytes=budget)
    try:
        _, steps = path(start, limits, surface, (0, 1))
    except SearchError:
        assert rank > top or rank * density > budget
        return
    for step in steps:
        assert step.at.rank <= top and step.at.rank * step.at.density <= budget
        if step.chosen:
            raised = (
                step.next.rank > step.at.rank,
                step.next.density > step.at.density,
            )
            assert sorted(raised) == [False, True]
    last = steps[-1].next
    for raised in limits.raised(last).values():
        assert raised.rank * raised.density > budget
    # Nothing but the start is run twice with a seed, and all of it can be made again.
    assert len(surface.runs) == len(set(surface.runs))
    assert list(search(start, limits, (0, 1), surface))[1:] == steps


def test_the_most_accurate_may_lie_before_the_end():
    surface = Surface(lambda c, seed: -abs(c.rank * c.density - 1))
    limits = Limits(max_rank=8, megabytes=4.0)
    steps = list(search(Candidate(1, 0.5), limits, (0,), surface))
    assert steps[-1].next.rank * steps[-1].next.density == 4
    assert most_accurate(steps, limits).accuracy == 0
    # The start counts, too.
    steps = list(search(Candidate(1, 1.0), limits, (0,), surface))
    assert most_accurate(steps, limits).candidate == Candidate(1, 1.0)
    # What is refused does not.
    limits = Limits(max_rank=8, megabytes=0.5)
    steps = list(search(Candidate(1, 0.5), limits, (0,), surface))
    assert Candidate(2, 0.5) in [c for c, _ in surface.runs]
    assert most_accurate(steps, limits).candidate == Candidate(1, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": Candidate(2, 1.0)}, "costs 2 MB .* budget of 1 MB"),
        ({"start": Candidate(9, 0.1)}, "start-rank must be .* max-rank 8, got 9"),
        ({"seeds": ()}, r"seeds must be .*, got \[\]"),
        ({"seeds": (1, 1)}, r"seeds must be .*, got \[1, 1\]"),
    ],
)
def test_a_search_that_is_not_possible_raises(change, message):
    given = {"start": Candidate(1, 0.5), "seeds": (0,)} | change
    limits = Limits(max_rank=8, megabytes=1.0)
    with pytest.raises(SearchError, match=message):
        list(search(given["start"], limits, given["seeds"], Surface(saturating)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Candidate(0, 0.5), "rank must be an integer >= 1"),
        (lambda: Candidate(1, 0), r"density must be a number in \(0, 1\]"),
        (lambda: Limits(max_rank=0, megabytes=1), "max-rank must be .*, got 0"),
        (
            lambda: Limits(max_rank=1, megabytes=0),
            "per-round-megabytes must be",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
