"""Hostile replies, one defect at a time: the others' updates are unaffected."""

import re
import time

import numpy as np
import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.sparsity import SparseVector, top_k
from flasc_flwr.core.stopping import Stop
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, payload_of, payload_record
from tests.flower.apps import adapter, client_app

LAYOUT = Layout.of(adapter())
BAD = 2


def run(rounds=2, mods=None, clients=6, present=None, **settings):
    app = client_app(mods=[*(mods or []), flasc_mod])
    strategy = Flasc(
        method="dense",
        **{"server_optimizer": Sgd(), "seed": 1, "fraction_train": 1.0} | settings,
    )
    grid = LocalGrid(app, clients)
    if present is not None:
        grid.get_node_ids = lambda: [n + 1 for n in present]
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy


def hostile(change):
    """Return a mod that changes the reply of one client's training."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if context.node_config["partition-id"] == BAD and "arrays" in reply.content:
            return change(reply) or reply
        return reply

    return mod


def with_payload(payload):
    def change(reply):
        reply.content["arrays"] = payload_record(payload)

    return change


def with_update(vector, layout=LAYOUT):
    return with_payload(encode(top_k(vector, 1.0), "float32", layout=layout))


def with_metric(key, value):
    def change(reply):
        metrics = dict(reply.content["metrics"])
        reply.content["metrics"] = MetricRecord({**metrics, key: value})

    return change


def mutated(reply):
    payload = bytearray(payload_of(reply.content["arrays"]))
    payload[len(payload) // 2] ^= 0xFF
    reply.content["arrays"] = payload_record(bytes(payload))


def not_finite(reply):
    """Put NaN into a payload behind the encoder's back, its checksum made right."""
    vector = np.ones(LAYOUT.size, np.float32)
    sparse = SparseVector(LAYOUT.size, np.arange(LAYOUT.size), vector)
    payload = bytearray(encode(sparse, "float32", layout=LAYOUT))
    place = payload.rfind(np.float32(1).tobytes())
    payload[place : place + 4] = np.float32("nan").tobytes()
    reply.content["arrays"] = payload_record(bytes(payload))


def no_metrics(reply):
    del reply.content["metrics"]


def no_arrays(reply):
    del reply.content["arrays"]


def dense_arrays(reply):
    reply.content["arrays"] = array_record(adapter())


OTHER = Layout.of(adapter(rank=3))
DEFECTS = {
    "garbage": (with_payload(b"garbage"), "payload"),
    "nothing": (with_payload(b""), "payload"),
    "mutated": (mutated, ""),
    "other layout": (
        with_update(np.ones(OTHER.size, np.float32), OTHER),
        "fingerprint|size",
    ),
    "not finite": (not_finite, ""),
    "huge": (with_update(np.full(LAYOUT.size, 1e9, np.float32)), "norm .* <= 100"),
    "no metrics": (no_metrics, "expected one MetricRecord, got 0"),
    "no arrays": (no_arrays, "expected one ArrayRecord, got 0"),
    "dense": (dense_arrays, "needs flasc_mod"),
    "negative examples": (
        with_metric("num-examples", -5),
        "'num-examples' must be .* -5",
    ),
    "NaN examples": (
        with_metric("num-examples", float("nan")),
        "'num-examples' must be .* nan",
    ),
    "absurd examples": (
        with_metric("num-examples", 1e12),
        "examples must be <= 1e\\+06, got 1e\\+12",
    ),
}


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_a_hostile_reply_is_excluded_and_named(defect):
    change, reason = DEFECTS[defect]
    guard = Guard(max_norm=100.0, max_examples=1e6)
    attacked = run(mods=[hostile(change)], guard=guard, weighting="examples")
    without = run(
        present=[i for i in range(6) if i != BAD], guard=guard, weighting="examples"
    )
    np.testing.assert_array_equal(attacked.state.vector, without.state.vector)
    for row in attacked.state.history[1:]:
        (failure,) = row["failures"]
        assert failure["client"] == str(BAD) and failure["node"] == BAD + 1
        assert re.search(reason, failure["reason"]), failure["reason"]
        assert row["replies"] == 5


def test_a_norm_beyond_the_bound_can_be_clipped():
    direction = np.ones(LAYOUT.size, np.float32)
    length = np.linalg.norm(direction)
    big = hostile(with_update(1000 * direction))
    fair = hostile(with_update(direction * np.float32(2 / length)))
    guard = Guard(max_norm=2.0, norm_action="clip")
    # Everybody's update is clipped to the same norm; theirs comes out alike.
    clipped = run(mods=[big], guard=guard)
    expected = run(mods=[fair], guard=guard)
    np.testing.assert_allclose(
        clipped.state.vector, expected.state.vector, rtol=1e-5, atol=1e-6
    )
    assert not any(row["failures"] for row in clipped.state.history)


def test_a_round_with_too_few_replies_is_skipped_and_the_run_goes_on():
    calls = []

    def failing(message, context, call_next):
        if "arrays" in message.content.array_records:
            calls.append(1)
            if len(calls) <= 4 and context.node_config["partition-id"] > 1:
                raise RuntimeError("no battery")
        return call_next(message, context)

    strategy = run(3, mods=[failing], clients=4, guard=Guard(min_replies=3))
    replies = [row["replies"] for row in strategy.state.history[1:]]
    assert replies == [2, 4, 4]
    assert [row["skipped"] for row in strategy.state.history] == [
        False,
        True,
        False,
        False,
    ]
    # The skipped round is no step.
    assert strategy.state.optimizer.step == 2
    reasons = [f["reason"] for f in strategy.state.history[1]["failures"]]
    assert all("no battery" in reason for reason in reasons) and len(reasons) == 2


def test_over_sampling_goes_on_when_enough_replies_are_there():
    class Late(LocalGrid):
        """Hands out no more than four replies to training messages a round."""

        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            return replies[:4] if len(replies) > 4 and self.training else replies

        training = False

        def push_messages(self, messages):
            messages = list(messages)
            self.training = any("arrays" in m.content for m in messages)
            return super().push_messages(messages)

    strategy = Flasc(fraction_train=0.5, oversample=1.5, seed=2)
    grid = Late(client_app(), 8)
    began = time.monotonic()
    strategy.start(grid, array_record(adapter()), 2, timeout=60)
    assert time.monotonic() - began < 30
    rows = strategy.state.history[1:]
    assert [row["replies"] for row in rows] == [4, 4]
    # Six were asked, half of eight and half of that again.
    sent = [s for s in strategy.state.traffic.sent if s.round == 1]
    assert len([s for s in sent if s.direction == Direction.DOWN]) == 6


def history(*accuracies):
    return [{"round": i, "accuracy": a} for i, a in enumerate(accuracies)]


def traffic():
    sent = Traffic()
    for client, size in (("a", 3_000_000), ("b", 1_000_000), ("a", 500_000)):
        sent.record(
            Sent(
                round=1, client=client, direction=Direction.UP, payload=1, message=size
            )
        )
    return sent


@pytest.mark.parametrize(
    ("stop", "rows", "reason"),
    [
        (Stop(), history(1.0), None),
        (Stop(accuracy=0.8), history(0.1, 0.79, None), None),
        (Stop(accuracy=0.8), history(0.1, 0.8), "accuracy 0.8000 reached the target"),
        (Stop(patience=2), history(0.1, 0.5, 0.4, None), None),
        (Stop(patience=2), history(0.5, 0.5, 0.5), "2 evaluations without a better"),
        (Stop(patience=2), history(0.1, 0.5, 0.4, None, 0.5), "better.* than 0.5000"),
        (Stop(megabytes=4.6), history(0.1), None),
        (Stop(megabytes=4.5), history(0.1), "4.500 MB sent, of 4.5 MB"),
        (Stop(client_megabytes=3.6), history(0.1), None),
        (Stop(client_megabytes=3.5), history(0.1), "client a exchanged 3.500 MB"),
    ],
)
def test_conditions_for_an_early_end(stop, rows, reason):
    told = stop.reason(rows, traffic())
    assert told is reason is None or re.search(reason, told)


def test_a_run_ends_when_its_condition_holds():
    strategy = run(50, stop=Stop(megabytes=0.03))
    assert strategy.ended and "of 0.03 MB" in strategy.ended
    assert 1 < len(strategy.state.history) < 50


@pytest.mark.parametrize("stop", [Stop(accuracy=0.9), Stop(patience=2)])
def test_an_accuracy_to_stop_at_that_is_not_measured_is_refused(stop):
    def start(name):
        def evaluate(server_round, arrays):
            return MetricRecord({name: 0.95})

        strategy = Flasc(method="dense", fraction_train=1.0, stop=stop)
        arrays = array_record(adapter())
        fn = evaluate if name else None
        strategy.start(LocalGrid(client_app(), 2), arrays, 5, evaluate_fn=fn)
        return strategy

    with pytest.raises(ValueError, match="returns 'accuracy', got acc, server_acc"):
        start("acc")
    with pytest.raises(ValueError, match="returns 'accuracy', got no metrics"):
        start("")
    assert start("accuracy").ended


def test_bad_bounds_are_told():
    with pytest.raises(ValueError, match="min-replies must be"):
        Guard(min_replies=0)
    with pytest.raises(ValueError, match="update-norm-action must be"):
        Guard(norm_action="ignore")
    with pytest.raises(ValueError, match="stop-accuracy must be"):
        Stop(accuracy=2)


def test_nobody_answers_twice_in_a_round():
    """A node that sends its reply a second time counts once."""
    strategy = run(1)

    class Twice(LocalGrid):
        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            copies = [r for r in replies if "arrays" in r.content.array_records]
            return [*replies, *copies]

    again = Flasc(method="dense", server_optimizer=Sgd(), seed=1, fraction_train=1.0)
    again.start(Twice(client_app(), 6), array_record(adapter()), 1)
    np.testing.assert_array_equal(again.state.vector, strategy.state.vector)
    row = again.state.history[1]
    assert row["replies"] == 6
    reasons = {f["reason"] for f in row["failures"]}
    (reason,) = reasons
    assert "unexpected reply" in reason
    assert {f["client"] for f in row["failures"]} == {str(i) for i in range(6)}
