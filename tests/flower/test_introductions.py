"""New nodes hold up no round, and one that was away is asked again."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message

from flasc_flwr import Flasc
from flasc_flwr.flower.clients import roster as roster_module
from flasc_flwr.flower.compat import ErrorCode
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app
from tests.flower.fleet import BUDGET, TIMEOUT, Clock, Fleet, Sight


def test_row_5_silent_nodes_hold_up_no_round():
    fleet = Fleet(30)
    fleet.silent = set(range(21, 31))
    sight = Sight(fleet)
    assert sight.nodes(at_least=2) == [1, 2, *range(11, 21), *range(3, 11)]
    # Once, the other nodes are given half a minute.
    assert 30 <= fleet.clock.now < 31
    began = fleet.clock.now
    for _ in range(5):
        assert len(sight.nodes(at_least=2)) == 20
    assert fleet.clock.now == began
    row = sight.ledger.row()
    assert row["waiting_nodes"] == len(row["waiting"]) == 10
    assert sight.waiting[21] == "no answer to its introduction (asked: 2)"


def test_row_5_a_run_with_silent_nodes_is_the_run_without_them(monkeypatch):
    monkeypatch.setattr(roster_module, "_GRACE", 0.0)
    runs = []
    for count in (20, 30):
        fleet = Fleet(count)
        fleet.silent = set(range(21, 31))
        strategy = Flasc(fraction_train=0.5, seed=3)
        strategy.start(fleet, array_record(adapter()), 3)
        runs.append(strategy)
    few, many = runs
    np.testing.assert_array_equal(many.state.vector, few.state.vector)
    assert [row["replies"] for row in many.state.history] == [0, 10, 10, 10]
    assert "waiting" not in few.state.history[1]
    assert [row["waiting_nodes"] for row in many.state.history] == [10] * 4
    # The question is counted where it was sent; nothing else is more.
    assert many.state.traffic.totals(2) == few.state.traffic.totals(2)


def test_row_5_the_row_names_some_of_those_who_are_missing():
    fleet = Fleet(50)
    fleet.silent = set(range(2, 51))
    sight = Sight(fleet)
    assert sight.nodes() == [1]
    row = sight.ledger.row()
    assert row["waiting_nodes"] == 49
    assert len(row["waiting"]) == 20


def test_a_silent_node_is_asked_again_ever_more_rarely():
    fleet = Fleet(2)
    fleet.silent = {2}
    sight = Sight(fleet)
    for _ in range(3000):
        sight.present()
        fleet.clock.sleep(1)
    times = [round(when) for when, node in fleet.asked if node == 2]
    assert times[:6] == [0, 30, 90, 210, 450, 930]
    assert np.diff(times).max() <= 602
    assert [node for _, node in fleet.asked].count(1) == 1


def test_an_unreachable_node_is_asked_again_ever_more_rarely():
    fleet = Fleet(2)
    fleet.unreachable = {2}
    sight = Sight(fleet)
    for _ in range(100):
        sight.present()
        fleet.clock.sleep(1)
    times = [round(when) for when, node in fleet.asked if node == 2]
    assert times == [0, 1, 3, 7, 15, 31, 63]
    assert sight.waiting[2] == "unreachable (away)"
    # Its messages are counted apart from those of clients.
    assert {"0", "node 2"} == {sent.client for sent in sight.traffic.sent}


def test_a_late_answer_lets_a_node_in_without_a_new_question():
    fleet = Fleet(3)
    fleet.silent = {3}
    sight = Sight(fleet)
    assert sight.nodes() == [1, 2]
    fleet.silent = set()
    sight.open()
    asked = len(fleet.asked)
    sight.roster.listen(fleet, sight.ledger)  # too early to look again
    assert asked == len(fleet.asked)
    fleet.clock.sleep(10)
    sight.roster.listen(fleet, sight.ledger)
    assert sight.nodes() == [1, 2, 3]
    assert sight.waiting == {}
    assert sight.traffic.by_client()["2"] > 0


def test_the_first_round_waits_for_enough_nodes_and_for_the_rest():
    clock = Clock()

    class Slow(Fleet):
        def pull_messages(self, message_ids):
            self.silent = {node for node in self._contexts if clock.now < 20 * node}
            return super().pull_messages(message_ids)

    fleet = Slow(5, clock=clock)
    # Each answers 20 s after the one before: all are in the first cohort.
    assert Sight(fleet).nodes(at_least=2) == [1, 2, 3, 4, 5]
    assert 100 <= clock.now < 101


def test_too_few_nodes_end_the_run_after_the_timeout():
    fleet = Fleet(3)
    fleet.silent = {2, 3}
    with pytest.raises(RuntimeError, match="1 of at least 2 nodes"):
        Sight(fleet).nodes(at_least=2)
    assert TIMEOUT <= fleet.clock.now < TIMEOUT + 1


def test_a_refused_node_that_is_the_first_to_come_does_not_end_the_run():
    """One that sends nonsense could otherwise keep a run from starting."""
    fleet = Fleet(3, node_configs=[{"upload-density": 7.0}, {}, {}])
    fleet.away = {2, 3}

    def sleep(seconds):
        fleet.clock.now += seconds
        fleet.away = set() if fleet.clock.now > 20 else {2, 3}

    sight = Sight(fleet)
    sight.roster._sleep = sleep
    assert sight.nodes(at_least=2) == [2, 3]
    # Nobody else comes: the error has the reason.
    fleet.away, alone = {2, 3}, Sight(fleet)
    with pytest.raises(RuntimeError, match="none of the 1 .*upload-density must be"):
        alone.nodes(at_least=2)


def test_a_refused_node_that_is_online_on_its_own_does_not_end_the_run():
    fleet = Fleet(2, node_configs=[{}, {"upload-density": 7.0}])
    sight = Sight(fleet)
    assert sight.nodes() == [1]
    fleet.away = {1}
    began, sleep = fleet.clock.now, fleet.clock.sleep

    def later(seconds):
        sleep(seconds)
        if fleet.clock.now > began + 60:
            fleet.away = set()

    sight.roster._sleep = later
    assert sight.nodes() == [1]


@pytest.mark.parametrize("how", ["away", "started", "unreachable"])
def test_row_12_a_node_that_was_away_is_asked_for_its_budget_again(how):
    fleet = Fleet(2)
    sight = Sight(fleet)
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    fleet.configure(2, upload_density=0.125)
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    assert len(fleet.asked) == 2
    if how == "away":
        fleet.away = {2}
        assert sight.nodes() == [1]
        fleet.away = set()
    elif how == "started":  # between two looks
        fleet.started[2] = "again"
    else:
        sight.roster.away(2)
    fleet.silent = {2}
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    fleet.silent = set()
    now = [one.budget for one in sight.present()]
    assert now == [BUDGET, replace(BUDGET, upload_density=0.125)]
    assert len(fleet.asked) == 3
    assert sight.present() and len(fleet.asked) == 3
    # All of it is counted as the client's.
    assert {sent.client for sent in sight.traffic.sent} == {"0", "1"}


def test_row_12_a_node_that_misses_a_round_is_asked_again():
    app, rounds = client_app(), []

    def misses_the_first_round(message, context):
        settings = message.content.get("config", {})
        if (settings.get("server-round"), context.node_id) == (1, 2):
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="away")
            return Message(error, reply_to=message)
        return app(message, context)

    fleet = Fleet(3, app=misses_the_first_round)
    strategy = Flasc(
        fraction_train=1.0, on_round=lambda row: rounds.append(len(fleet.asked))
    )
    strategy.start(fleet, array_record(adapter()), 3)
    assert [row["replies"] for row in strategy.state.history] == [0, 2, 3, 3]
    assert rounds == [3, 4, 4, 4]


def test_row_12_a_node_that_restarts_with_an_absurd_budget_is_left_out():
    fleet = Fleet(2)
    sight = Sight(fleet)
    assert sight.nodes() == [1, 2]
    fleet.configure(2, upload_density=-1.0)
    fleet.started[2] = "again"
    assert sight.nodes() == [1]
    fleet.configure(2, upload_density=0.5)
    fleet.started[2] = "once more"
    assert sight.nodes() == [1, 2]
