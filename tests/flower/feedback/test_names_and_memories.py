"""What the server knows of a name's memory is of the node that has the name."""

import numpy as np

from flasc_flwr import Flasc
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter
from tests.flower.fleet import Fleet
from tests.flower.test_measured_bases import ADAPTER, METHOD, SIDES, Devices


class Twice(Fleet):
    """The last node has the name of the first; it comes and goes with the rounds."""

    def __init__(self, away):
        super().__init__(3, node_configs=[{}, {}, {"partition-id": 0}])
        self.plan = away
        self.away = away[0]

    def on_round(self, row):
        """Get ready for the next round."""
        self.away = self.plan[min(row["round"] + 1, len(self.plan) - 1)]


def run(fleet, rounds=5):
    strategy = Flasc(
        method=compose("flasc-ef"),
        fraction_train=1.0,
        server_optimizer=Sgd(),
        on_round=fleet.on_round,
    )
    strategy.start(fleet, array_record(adapter()), rounds, timeout=1)
    return strategy.state


def test_a_node_that_is_refused_changes_nothing_for_the_one_with_its_name():
    alone = run(Twice([{3}]))
    both = run(Twice([{3}, {3}, {3}, set()]))
    np.testing.assert_array_equal(both.vector, alone.vector)
    assert both.history[4]["waiting_nodes"] == 1
    for key in ("replies", "payload_bytes_down"):
        ours, theirs = ([r[key] for r in s.history] for s in (both, alone))
        assert ours == theirs


def test_a_node_that_gets_a_name_is_sent_what_itself_lacks():
    state = run(Twice([{3}, {3}, {3}, set(), {1}]))
    assert [row["failures"] for row in state.history[1:]] == [[]] * 5
    assert [row["replies"] for row in state.history[1:]] == [2] * 5


def run_cores(plan):
    devices = Devices(3, node3={"partition-id": 0})
    devices.fleet.away = plan[0]

    def on_round(row):
        devices.fleet.away = plan[min(row["round"] + 1, len(plan) - 1)]

    strategy = Flasc(
        method=METHOD, core_sides=SIDES, fraction_train=1.0, on_round=on_round
    )
    strategy.start(devices.fleet, array_record(ADAPTER), 5, timeout=1)
    return strategy.state.history


def test_bases_are_sent_to_a_node_that_gets_a_name_and_to_no_other():
    alone = run_cores([{3}])
    refused = run_cores([{3}, {3}, {3}, set()])
    takes_over = run_cores([{3}, {3}, {3}, set(), {1}])
    sizes = [
        [row["payload_bytes_down"] for row in rows]
        for rows in (alone, refused, takes_over)
    ]
    assert sizes[1] == sizes[0]
    assert sizes[2][4] > sizes[0][4] + 100
    assert [row["replies"] for row in takes_over[1:]] == [2] * 5
