"""Many rounds of random methods with random faults: what must hold in all of them."""

import pytest

from flasc_flwr.flower.clients import exchange
from tests.flower.fleet import Clock
from tests.flower.random_fleets import ROUNDS, RandomFleet, case, everything, run

SEEDS = [
    *range(3),
    *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(3, 300)),
]


class Time(Clock):
    """Stands in for the module: no test waits for a reply that is late."""

    monotonic = Clock.__call__


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(exchange, "time", Time())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_is_the_same_whatever_the_faults_the_order_and_the_restarts(seed):
    drawn = case(seed)
    fleet = RandomFleet(drawn)
    state, _ = run(drawn, fleet)
    expected = everything(state)
    sent = state.traffic.totals()
    assert sent["message_bytes_down"] == fleet.down
    assert sent["message_bytes_up"] == fleet.up
    # A reply that cannot be used is as good as an error.
    other, _ = run(drawn, RandomFleet(drawn, only_errors=True))
    assert everything(other) == expected
    if drawn.settings.get("oversample", 1) == 1:
        other, _ = run(drawn, RandomFleet(drawn, shuffle=seed))
        assert everything(other) == expected
    fleet, saved = RandomFleet(drawn), None
    for current in range(1, ROUNDS + 1):  # the server restarts after each round
        other, saved = run(drawn, fleet, current, saved)
    assert everything(other) == expected
