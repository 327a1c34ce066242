"""Error feedback over messages: references stay equal, and nothing is lost."""

from math import inf

import numpy as np
import pytest
from flwr.app import Array

from flasc_flwr import Flasc
from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.feedback import fleet_memory
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app
from tests.flower.feedback.patchy import PatchyGrid, constant

NODES = 4
LAYOUT = Layout.of(adapter())
EVENTS = {
    (1, 2): "message lost",
    (2, 2): "reply lost",
    (3, 3): "repeated",
    (1, 4): "reply lost",
    (2, 4): "repeated",
    (4, 3): "message lost",
    (4, 4): "message lost",
}


def strategy_of(**settings):
    usual = {
        "method": compose("flasc-ef", init="sent"),
        "download_density": 1 / 8,
        "upload_density": 1 / 8,
        "fraction_train": 1.0,
        "server_optimizer": Sgd(),
        "feedback_decay": 1.0,
    }
    return Flasc(**usual | settings)


def run(strategy, grid, rounds):
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy


def references(strategy):
    """Return the digests of the server's references."""
    streams = strategy.state.fleet._streams.values()
    return {followed.stream.reference.digest for followed in streams}


@pytest.mark.parametrize("init", ["sent", "shared-seed"])
@pytest.mark.parametrize("values", ["int4", "bfloat16"])
@pytest.mark.parametrize("rounds", [1, 5])
def test_references_are_equal(init, values, rounds):
    method = compose("flasc-ef", init=init)
    grid = PatchyGrid(NODES)
    strategy = run(strategy_of(method=method, values=values), grid, rounds)
    assert set(grid.digests().values()) == references(strategy)
    assert len(grid.digests()) == NODES


def test_nothing_is_lost_when_messages_are():
    """Each device: what it trained = what the server took in + what it still owes."""
    step = 0.25  # exact in float32
    grid = PatchyGrid(NODES, EVENTS, app=client_app(constant(step)))
    strategy = run(strategy_of(values="float32"), grid, 7)
    receipts = strategy.state.fleet.receipts.last
    for node in range(1, NODES + 1):
        own = [event for (of, _), event in EVENTS.items() if of == node]
        trainings = grid.seen[node] - own.count("message lost") + own.count("repeated")
        taken = [
            decode(p, LAYOUT.size).densify() for n, _, p in grid.delivered if n == node
        ]
        memory = grid.memory(node)
        memory.open_round(inf, receipts[str(node - 1)])
        # Adding 0.25 to a weight and subtracting the weight rounds.
        np.testing.assert_allclose(
            np.sum(taken, axis=0) + memory.residual, trainings * step, atol=1e-5
        )
    assert set(grid.digests().values()) == references(strategy)


def test_the_server_vector_has_what_was_delivered():
    grid = PatchyGrid(NODES, EVENTS)
    strategy = run(strategy_of(), grid, 6)
    vector = LAYOUT.flatten(adapter())
    for current in range(1, 7):
        updates = [
            decode(payload, LAYOUT.size).densify()
            for _, round, payload in grid.delivered
            if round == current
        ]
        vector += np.mean(updates, axis=0)
    np.testing.assert_allclose(strategy.state.vector, vector, atol=1e-5)


def test_a_device_that_lost_its_state_is_sent_everything_and_takes_part_again():
    grid = PatchyGrid(NODES, {(2, 3): "state lost"})
    strategy = run(strategy_of(), grid, 5)
    rows = strategy.state.history
    assert [row["replies"] for row in rows[1:]] == [4, 4, 3, 4, 4]
    (failure,) = rows[3]["failures"]
    assert failure["client"] == "1"
    assert "holds another reference than expected" in failure["reason"]
    assert set(grid.digests().values()) == references(strategy)


def test_a_device_that_missed_rounds_is_sent_their_payloads():
    events = {(1, n): "message lost" for n in (3, 4)}
    grid = PatchyGrid(NODES, events)
    run(strategy_of(), grid, 5)
    sizes = {}
    for node, control, data in grid.sent:
        sizes.setdefault(node, []).append((len(data), control.get("memory-lengths")))
    # One payload more each time; nothing to a device that has all of it.
    own, other = sizes[1], sizes[2]
    newest = [size for size, _ in other]
    assert own[2] == other[2]
    assert own[3] == (newest[2] + newest[3], [newest[2]])
    assert own[4] == (sum(newest[2:5]), newest[2:4])


def test_catch_up_payloads_are_counted():
    grid = PatchyGrid(NODES, {(1, 2): "message lost", (2, 3): "state lost"})
    strategy = run(strategy_of(), grid, 4)
    totals = dict.fromkeys(range(1, 5), 0)
    for _, control, payload in grid.sent:
        totals[int(control["memory-round"])] += len(payload)
    rows = strategy.state.history[1:]
    assert [row["payload_bytes_down"] for row in rows] == list(totals.values())


def test_a_payload_has_no_layout_once_the_device_knows_it():
    """The layout travels with a whole reference only."""
    grid = PatchyGrid(NODES)
    run(strategy_of(values="bfloat16"), grid, 2)
    first, second = (payload for node, _, payload in grid.sent if node == 1)
    with pytest.raises(ValueError, match="carries no layout"):
        read_layout(second)
    assert len(second) < len(first) / 3


def test_a_reply_of_a_skipped_round_goes_back_into_the_residual():
    """Three of four replies are lost, so the fourth is not used either."""
    events = {(node, 2): "reply lost" for node in (1, 2, 3)}
    grid = PatchyGrid(NODES, events, app=client_app(constant(0.25)))
    strategy = strategy_of(guard=Guard(min_replies=3), values="float32")
    run(strategy, grid, 2)
    assert strategy.state.history[2]["skipped"]
    memory = grid.memory(4)
    memory.open_round(3, strategy.state.fleet.receipts.last["3"])
    taken = [p for node, round, p in grid.delivered if node == 4 and round == 1]
    sent = decode(taken[0], LAYOUT.size).densify()
    np.testing.assert_allclose(sent + memory.residual, 0.5, atol=1e-6)


def test_after_a_skipped_round_an_up_to_date_device_is_sent_no_payload():
    events = {(node, 2): "reply lost" for node in (1, 2, 3)}
    grid = PatchyGrid(NODES, events)
    strategy = run(strategy_of(guard=Guard(min_replies=3)), grid, 4)
    assert [row["replies"] for row in strategy.state.history[1:]] == [4, 1, 4, 4]
    sizes = [len(payload) for node, _, payload in grid.sent if node == 4]
    assert sizes[2] == 0 < min(sizes[0], sizes[1], sizes[3])
    assert set(grid.digests().values()) == references(strategy)


def test_a_rejected_update_goes_back_into_the_residual():
    """The first round's updates are beyond the bound, and all of them stay owed."""
    grid = PatchyGrid(NODES, app=client_app(constant(0.25)))
    strategy = run(strategy_of(guard=Guard(max_norm=1e-3)), grid, 2)
    assert strategy.state.history[1]["replies"] == 0
    memory = grid.memory(1)
    assert memory.trained == 2
    memory.open_round(3, None)
    np.testing.assert_allclose(memory.residual, 0.5, atol=1e-6)


def test_a_resumed_run_ends_as_if_it_had_never_stopped():
    whole = run(strategy_of(), PatchyGrid(NODES), 6)
    grid, saved = PatchyGrid(NODES), []
    keep = lambda checkpoint: saved.append(checkpoint.to_bytes())  # noqa: E731
    run(strategy_of(on_checkpoint=keep), grid, 3)
    resumed = strategy_of(resume=Checkpoint.from_bytes(saved[-1]))
    run(resumed, grid, 6)
    np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
    assert references(resumed) == references(whole)
    assert set(grid.digests().values()) == references(resumed)
    bytes_down = [row["payload_bytes_down"] for row in resumed.state.history]
    assert bytes_down == [row["payload_bytes_down"] for row in whole.state.history]


@pytest.mark.parametrize("lost", [(), (2, 3)])
def test_a_server_resumed_from_an_older_checkpoint_finds_its_devices_again(lost):
    grid, saved = PatchyGrid(NODES), []
    keep = lambda checkpoint: saved.append(checkpoint.to_bytes())  # noqa: E731
    run(strategy_of(on_checkpoint=keep), grid, 6)
    for node in lost:
        grid.forget(node)
    resumed = strategy_of(resume=Checkpoint.from_bytes(saved[3]))
    run(resumed, grid, 8)
    assert all(row["replies"] == NODES for row in resumed.state.history[1:])
    assert set(grid.digests().values()) == references(resumed)


def test_an_evaluation_leads_to_the_newest_reference_too():
    grid = PatchyGrid(NODES)
    strategy = run(strategy_of(fraction_evaluate=1.0), grid, 3)
    assert set(grid.digests().values()) == references(strategy)
    assert "clients_total" in strategy.state.history[3]
    # What clients hold is what the server evaluates and exports.
    held = grid.memory(1).reference.vector
    received = strategy.server.received()
    flat = LAYOUT.flatten({name: a.numpy() for name, a in received.items()})
    np.testing.assert_array_equal(flat, held)


def test_devices_of_unequal_budgets_hold_references_of_their_own():
    configs = [
        {"lora-rank": 2},
        {"lora-rank": 2, "download-density": 0.5},
        {"upload-density": 0.5},
        {"upload-bytes": 120, "download-bytes": 200},
    ]
    grid = PatchyGrid(NODES, node_configs=configs)
    strategy = run(strategy_of(), grid, 5)
    assert all(row["replies"] == NODES for row in strategy.state.history[1:])
    assert set(grid.digests().values()) <= references(strategy)
    assert len(set(grid.digests().values())) == 4
    assert grid.memory(1).layout.size < LAYOUT.size
    sizes = [
        len(payload)
        for node, control, payload in grid.sent
        if node == 4 and not control.get("memory-whole")
    ]
    assert sizes and max(sizes) <= 200


def test_a_device_whose_budget_changes_stays_correct():
    grid, saved = PatchyGrid(NODES), []
    run(strategy_of(on_checkpoint=saved.append), grid, 3)
    for settings in ({"lora-rank": 2}, {"lora-rank": 4}, {"download-density": 0.5}):
        grid.configure(1, **settings)
        resumed = strategy_of(resume=saved[-1], on_checkpoint=saved.append)
        run(resumed, grid, saved[-1].round + 2)
        assert all(row["replies"] == NODES for row in resumed.state.history[1:])
        assert set(grid.digests().values()) <= references(resumed)
        rank = settings.get("lora-rank", 4)
        assert grid.memory(1).layout.tensors[0].shape[0] == rank


def test_streams_are_bounded(monkeypatch):
    monkeypatch.setattr(fleet_memory, "MOST_STREAMS", 2)
    configs = [{"download-density": d} for d in (0.2, 0.3, 0.4, 0.5)]
    grid = PatchyGrid(NODES, node_configs=configs)
    strategy = run(strategy_of(), grid, 3)
    assert len(strategy.state.fleet._streams) == 2
    assert all(row["replies"] == NODES for row in strategy.state.history[1:])


def test_up_only_remembers_at_the_device():
    """The download is FLASC's; what the upload leaves out is sent later."""
    method = compose("flasc", error_feedback="up")
    grid = PatchyGrid(NODES, app=client_app(constant(0.25)))
    strategy = run(strategy_of(method=method, values="float32"), grid, 4)
    memory = grid.memory(1)
    assert memory.reference is None
    taken = [decode(p, LAYOUT.size).densify() for n, _, p in grid.delivered if n == 1]
    np.testing.assert_allclose(
        np.sum(taken, axis=0) + memory.residual, 4 * 0.25, atol=1e-5
    )
    assert references(strategy) == set()


def test_at_density_1_in_float32_it_is_dense_but_for_rounding():
    ends = []
    for error_feedback in ("none", "up", "both"):
        method = compose("flasc", error_feedback=error_feedback)
        strategy = strategy_of(
            method=method, values="float32", download_density=1, upload_density=1
        )
        ends.append(run(strategy, LocalGrid(client_app(), NODES), 4).state.vector)
    for other in ends[1:]:
        np.testing.assert_allclose(other, ends[0], atol=1e-5)


def test_a_residual_can_be_kept_in_bfloat16():
    configs = [{"residual-values": "bfloat16"}, {}, {}, {}]
    grid = PatchyGrid(NODES, node_configs=configs)
    run(strategy_of(), grid, 3)
    stored = [grid.stored(node)["residual"].dtype for node in (1, 2)]
    assert stored == ["uint16", "float32"]
    bits = grid.memory(1).residual.view(np.uint32)
    assert not np.any(bits & 0xFFFF)


@pytest.mark.parametrize("change", ["a value", "the version"])
def test_a_reference_that_differs_is_noticed_and_replaced(change):
    """Versions may be equal where values are not: a damaged disk, other arithmetic."""
    grid, saved = PatchyGrid(NODES), []
    run(strategy_of(on_checkpoint=saved.append), grid, 3)
    stored = grid.stored(2)
    key = "reference" if change == "a value" else "version"
    array = stored[key].numpy().copy()
    array[0] += 1
    stored[key] = Array(array)
    resumed = run(strategy_of(resume=saved[-1]), grid, 6)
    replies = [row["replies"] for row in resumed.state.history[4:]]
    # The version is noticed at once, as the node introduces itself.
    assert replies == ([3, 4, 4] if change == "a value" else [4, 4, 4])
    if change == "a value":
        (failure,) = resumed.state.history[4]["failures"]
        assert "differ from the server's" in failure["reason"]
    assert set(grid.digests().values()) == references(resumed)


def test_a_memory_that_cannot_be_read_is_replaced():
    grid, saved = PatchyGrid(NODES), []
    run(strategy_of(on_checkpoint=saved.append), grid, 3)
    grid.damage(2)
    resumed = run(strategy_of(resume=saved[-1]), grid, 5)
    assert all(row["replies"] == NODES for row in resumed.state.history[1:])
    assert set(grid.digests().values()) == references(resumed)


@pytest.mark.parametrize("feedback", ["up", "both"])
def test_what_a_device_has_not_sent_of_one_run_does_not_get_into_the_next(feedback):
    """Also where the same strategy starts twice, and where replies get lost."""
    method = compose("flasc-ef", init="sent", error_feedback=feedback)
    events = {(1, 4): "reply lost", (2, 3): "reply lost", (3, 4): "message lost"}
    strategy = strategy_of(method=method)
    grid = PatchyGrid(NODES, events)
    run(strategy, grid, 3)
    second = run(strategy, grid, 3).state
    later = {(node, n - 3): event for (node, n), event in events.items() if n > 3}
    alone = PatchyGrid(NODES, later)
    expected = run(strategy_of(method=method), alone, 3).state
    np.testing.assert_array_equal(second.vector, expected.vector)
    for node in range(1, NODES + 1):
        residual = alone.memory(node).residual
        np.testing.assert_array_equal(grid.memory(node).residual, residual)
