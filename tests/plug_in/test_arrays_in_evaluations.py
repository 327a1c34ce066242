"""Arrays in replies to evaluation: left out where they are those received."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.wire import CONTROL, SAME, array_record, arrays_of
from tests.plug_in.numpy_app import RecordingGrid
from tests.plug_in.patchy import SPARSE, Noting, drift, rounded, start_arrays


class Evaluating(Noting):
    """Notes the arrays in replies to evaluation, and their errors."""

    def __init__(self):
        super().__init__(fraction_evaluate=1.0)
        self.evaluated, self.errors = [], []

    def aggregate_evaluate(self, server_round, replies):
        for reply in replies:
            if reply.has_error():
                self.errors.append(reply.error.reason)
            else:
                self.evaluated.append(arrays_of(reply.content["arrays"]))
        return None


def app(answer):
    """Return an app whose evaluation returns `answer` of the arrays received."""
    made = ClientApp(mods=[flasc_mod])

    @made.train()
    def train(message, context):
        trained = drift(arrays_of(message.content["arrays"]), 0, 1)
        metrics = MetricRecord({"num-examples": 1})
        content = {"arrays": array_record(trained), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    @made.evaluate()
    def evaluate(message, context):
        metrics = MetricRecord({"num-examples": 1})
        content = answer(arrays_of(message.content["arrays"]))
        records = {"arrays": array_record(content), "metrics": metrics}
        return Message(RecordDict(records), reply_to=message)

    return made


def run(answer, **settings):
    grid, inner = RecordingGrid(app(answer), 2), Evaluating()
    transport = SparseTransport(inner, **(SPARSE | settings))
    transport.start(grid, array_record(start_arrays()), 2)
    replies = [m for m in grid.up if m.metadata.message_type == "evaluate"]
    return inner, replies


@pytest.mark.parametrize("feedback", ["both", "none"])
def test_fault_8_arrays_that_an_evaluation_returns_as_received_are_left_out(feedback):
    settings = {} if feedback == "both" else {"error_feedback": "none"}
    inner, replies = run(lambda arrays: arrays, **settings)
    assert len(replies) == 4 and not inner.errors
    assert all(not reply.content["arrays"] for reply in replies)
    for arrays in inner.evaluated:
        assert list(arrays) == list(start_arrays())
        if feedback == "both":  # what is received is on the grid of bfloat16
            assert np.array_equal(arrays["weight"], rounded(arrays["weight"]))
        assert arrays["weight"].any() and arrays["bias"].any()


def test_what_the_strategy_is_given_is_what_the_device_evaluated():
    seen = []

    def answer(arrays):
        seen.append(arrays)
        return arrays

    inner, _ = run(answer)
    for device, server in zip(seen, inner.evaluated, strict=True):
        for name, array in device.items():
            assert np.array_equal(array, server[name])


def test_other_arrays_of_an_evaluation_travel_as_they_are():
    inner, replies = run(lambda arrays: {"confusion": np.eye(40, dtype=np.float32)})
    for reply, arrays in zip(replies, inner.evaluated, strict=True):
        assert reply.content["arrays"]
        assert np.array_equal(arrays["confusion"], np.eye(40))


@pytest.mark.parametrize("named", [["other"], ["arrays"], [7], [b"x"] * 3])
def test_a_device_cannot_leave_out_what_was_not_sent(named):
    grid, inner = RecordingGrid(app(lambda arrays: arrays), 1), Evaluating()
    transport = SparseTransport(inner, **SPARSE)
    inner.min_available_nodes = inner.min_evaluate_nodes = 1
    sent = transport.configure_evaluate(
        1, array_record(start_arrays()), ConfigRecord({"server-round": 1}), grid
    )
    (reply,) = grid.send_and_receive(sent)
    assert reply.content[CONTROL][SAME] == ["arrays"]
    if named == ["arrays"]:  # named, and still there
        reply.content["arrays"] = array_record(start_arrays())
    reply.content[CONTROL] = ConfigRecord({SAME: named})
    transport.aggregate_evaluate(1, [reply])
    (reason,) = inner.errors
    assert "must be one that was sent" in reason
