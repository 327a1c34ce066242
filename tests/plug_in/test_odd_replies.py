"""One device's reply that Flower cannot take does not end a run, however few reply."""

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.exception import InconsistentMessageReplies

from flasc_flwr import SparseTransport
from flasc_flwr.flower.compat import ErrorCode
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import client_app
from tests.plug_in.patchy import SPARSE, PatchyGrid, drift, start_arrays


def two_records(content):
    content["again"] = content["arrays"]


def no_metrics(content):
    del content["metrics"]


def two_metrics(content):
    content["more"] = MetricRecord({"num-examples": 1})


def no_weight(content):
    content["metrics"] = MetricRecord({"loss": 1.0})


def list_of_weights(content):
    content["metrics"]["num-examples"] = [1, 2]


ODD = [two_records, no_metrics, two_metrics, no_weight, list_of_weights]


class OddGrid(PatchyGrid):
    """Changes or loses replies: ``{(node, n): change or None}``, n as in its base."""

    def __init__(self, nodes, changes):
        super().__init__(client_app(drift), nodes)
        self.changes = changes

    def _run_app(self, message):
        reply = super()._run_app(message)
        node = message.metadata.dst_node_id
        place = node, self.seen[node]
        if message.metadata.message_type != "train" or place not in self.changes:
            return reply
        if (change := self.changes[place]) is None:
            error = Error(ErrorCode.NODE_UNAVAILABLE, "away")
            return Message(error, reply_to=message)
        change(reply.content)
        return reply


def run(changes, kind=flower.FedAvg, rounds=3, nodes=2):
    grid = OddGrid(nodes, changes)
    transport = SparseTransport(kind(fraction_evaluate=0.0), **SPARSE)
    return transport.start(grid, array_record(start_arrays()), rounds).arrays


def assert_equal(ours, expected):
    assert set(ours) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name].numpy(), array.numpy())


@pytest.mark.parametrize("kind", [flower.FedYogi, flower.FedTrimmedAvg])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("node", [1, 2])
def test_of_two_replies_the_one_counts_that_flower_can_take(odd, kind, node):
    ours, expected = (run({(node, 1): one}, kind, rounds=1) for one in (odd, None))
    assert_equal(ours, expected)


@pytest.mark.parametrize("odd", ODD)
def test_a_round_without_another_reply_is_left_out(odd):
    """Once Flower has taken replies, it is the device's fault and not the app's."""
    changes = {(1, 2): None, (2, 2): odd}
    assert_equal(run(changes, rounds=2), run({(1, 2): None, (2, 2): None}, rounds=2))


@pytest.mark.parametrize("odd", ODD)
def test_an_app_of_which_no_reply_was_ever_right_gets_flowers_error(odd):
    with pytest.raises(InconsistentMessageReplies):
        run({(node, 1): odd for node in (1, 2)})


def test_the_error_of_a_node_that_is_away_stays_what_it_is(logged):
    run({(1, 2): None, (2, 2): no_metrics}, rounds=2)
    assert "error in reply from node 1: away" in logged()
    assert "error in reply from node 2: expected one MetricRecord, got 0" in logged()
