"""Segments through the strategy: what is sent, averaged, and refused."""

import numpy as np
import pytest
from flwr.app import ConfigRecord

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.segments import Segment
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.wire import CONTROL, array_record, payload_of
from tests.flower.apps import RecordingGrid, adapter, client_app, nudge

LAYOUT = Layout.of(adapter())
CLIENTS, COUNT, ROUNDS = 6, 4, 5


def run(method, app=None, node_configs=None, rounds=ROUNDS, **settings):
    strategy = Flasc(
        method=method,
        values="float32",
        server_optimizer=Sgd(),
        fraction_train=1.0,
        **settings,
    )
    grid = RecordingGrid(app or client_app(), CLIENTS, node_configs=node_configs)
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy, grid


def part(vector, client, turn, density=1.0):
    """Return what a client sends, and where its segment lies."""
    n = len(vector)
    i = (client + turn) % COUNT
    inside = np.zeros(n, bool)
    inside[i * n // COUNT : (i + 1) * n // COUNT] = True
    keep = max(1, int(inside.sum() * density))
    order = np.argsort(-np.abs(np.where(inside, vector, 0)), kind="stable")[:keep]
    sent = np.zeros_like(vector)
    sent[order] = np.where(inside, vector, 0)[order]
    return sent, inside


@pytest.mark.parametrize(
    ("name", "density"), [("flasc", 1.0), ("flasc", 0.3), ("fed-sb", 1.0)]
)
def test_it_equals_the_plain_loop(name, density):
    """Round robin; each entry is averaged over those who were to send it."""
    method = compose(name, upload_segments=COUNT)
    strategy, grid = run(method, download_density=1.0, upload_density=density)
    w = LAYOUT.flatten(adapter())
    for turn in range(1, ROUNDS + 1):
        sums, count = np.zeros(len(w)), np.zeros(len(w))
        for k in range(CLIENTS):
            trained = LAYOUT.flatten(nudge(LAYOUT.unflatten(w), k, turn))
            sent, inside = part(trained - w, k, turn, density)
            sums, count = sums + sent, count + inside
        w = (w + sums / np.maximum(count, 1)).astype(np.float32)
    np.testing.assert_allclose(strategy.state.vector, w, rtol=1e-5, atol=1e-6)
    assert all(row["replies"] == CLIENTS for row in strategy.state.history[1:])
    # A payload has entries of one segment only.
    for message in grid.up:
        if "arrays" in message.content.array_records:
            sent = decode(payload_of(message.content["arrays"]), size=LAYOUT.size)
            edges = [i * LAYOUT.size // COUNT for i in range(1, COUNT)]
            index = np.searchsorted(edges, sent.positions, side="right")
            assert len(set(index.tolist())) == 1


def test_a_clients_segment_is_of_its_own_smaller_adapter():
    own = [{"lora-rank": 1 + i % 3} for i in range(CLIENTS)]
    method = compose("dense", upload_segments=COUNT)
    strategy, _ = run(method, node_configs=own)
    a, b, head = adapter()
    w = adapter()
    for turn in range(1, ROUNDS + 1):
        sums = {n: np.zeros(v.shape) for n, v in w.items()}
        count = {n: np.zeros(v.shape) for n, v in w.items()}
        for k in range(CLIENTS):
            rank = 1 + k % 3
            start = {a: w[a][:rank], b: w[b][:, :rank], head: w[head]}
            layout = Layout.of(start)
            trained = layout.flatten(nudge(start, k, turn))
            sent, inside = part(trained - layout.flatten(start), k, turn)
            sent = layout.unflatten(sent)
            inside = layout.unflatten(inside.astype(np.float32))
            for name in w:
                where = tuple(slice(0, n) for n in sent[name].shape)
                sums[name][where] += sent[name]
                count[name][where] += inside[name]
        w = {
            n: (v + sums[n] / np.maximum(count[n], 1)).astype(np.float32)
            for n, v in w.items()
        }
    np.testing.assert_allclose(
        strategy.state.vector, LAYOUT.flatten(w), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["flasc", "segments"])
def test_with_error_feedback_a_segment_also_has_what_earlier_turns_left_out(name):
    method = compose(name, upload_segments=COUNT, error_feedback="up")
    strategy, _ = run(
        method, download_density=1.0, upload_density=1.0, feedback_decay=1.0
    )
    w = LAYOUT.flatten(adapter())
    residuals = [np.zeros_like(w) for _ in range(CLIENTS)]
    for turn in range(1, ROUNDS + 1):
        total = np.zeros(len(w))
        for k in range(CLIENTS):
            trained = LAYOUT.flatten(nudge(LAYOUT.unflatten(w), k, turn))
            owed = residuals[k] + (trained - w)
            sent, _ = part(owed, k, turn)
            residuals[k] = owed - sent
            total += sent
        w = (w + total / CLIENTS).astype(np.float32)
    np.testing.assert_allclose(strategy.state.vector, w, rtol=1e-5, atol=1e-6)


def test_another_segment_than_the_one_asked_for_is_rejected():
    def cheat(message, context, call_next):
        control = message.content.get(CONTROL, {})
        if context.node_config["partition-id"] == 2 and "upload-segment" in control:
            index, count = control["upload-segment"]
            control["upload-segment"] = [(index + 1) % count, count]
        return call_next(message, context)

    method = compose("dense", upload_segments=COUNT)
    strategy, _ = run(method, client_app(mods=[cheat, flasc_mod]), rounds=2)
    for row in strategy.state.history[1:]:
        (failure,) = row["failures"]
        assert "in the segment that the client was asked for" in failure["reason"]
        assert row["replies"] == CLIENTS - 1


def test_norms_are_compared_within_a_segment():
    """Honest clients whose segment changes more are not outliers; a huge one is."""

    def trainer(received, client, current):
        # The last tensor, the head, changes a hundred times as much as the rest.
        _, _, head = received
        change = {n: np.full_like(v, 0.01) for n, v in received.items()}
        change[head] += 1
        if client == 11 and current == 2:
            change = {n: 1000 * v for n, v in change.items()}
        return {n: v + change[n] for n, v in received.items()}

    method = compose("dense", upload_segments=3)
    strategy = Flasc(
        method=method,
        fraction_train=1.0,
        server_optimizer=Sgd(),
        guard=Guard(norm_ratio=10.0),
    )
    grid = RecordingGrid(client_app(trainer), 15)
    strategy.start(grid, array_record(adapter()), 2)
    first, second = strategy.state.history[1:]
    assert first["replies"] == 15 and not first["failures"]
    (failure,) = second["failures"]
    assert "norm of the update must be <=" in failure["reason"]
    assert second["replies"] == 14


def test_all_segments_share_one_download():
    """Also where there are more segments than budgets that a round serves."""
    method = compose("flasc", upload_segments=20)
    strategy = Flasc(method=method, fraction_train=1.0)
    grid = RecordingGrid(client_app(), 20)
    strategy.start(grid, array_record(adapter()), 1)
    sent = [m.content["arrays"] for m in grid.down if "arrays" in m.content]
    assert len(sent) == 20 and len({id(record) for record in sent}) == 1
    assert strategy.state.history[1]["replies"] == 20
    segments = {tuple(m.content[CONTROL]["upload-segment"]) for m in grid.down[20:]}
    assert segments == {(i, 20) for i in range(20)}


def test_a_segment_travels_in_the_instructions():
    asked = Instructions(density=0.5, segment=Segment(2, 5))
    assert Instructions.from_record(asked.to_record()) == asked
    for wrong in ([5, 5], [-1, 5], [0, 0], [1], [1, 2, 3], [1.0, 5.0], 3, "1/5"):
        record = ConfigRecord({**asked.to_record(), "upload-segment": wrong})
        with pytest.raises(ValueError, match="upload-segment must be an index"):
            Instructions.from_record(record)
