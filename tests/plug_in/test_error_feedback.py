"""Error feedback in SparseTransport: nothing that a message leaves out is lost."""

import numpy as np
import pytest
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.feedback.fleet_memory import FleetMemory
from flasc_flwr.flower.wire import CONTROL, PAYLOAD, array_record, arrays_of
from tests.plug_in.numpy_app import RecordingGrid, client_app
from tests.plug_in.patchy import (
    SHAPES,
    SPARSE,
    Noting,
    PatchyGrid,
    drift,
    one_round,
    rounded,
    run,
    start_arrays,
)

IN_PAYLOAD = ("weight", "head")


def payload_sizes(messages):
    return [len(m.content["arrays"][PAYLOAD].data) for m in messages]


def spying(seen, train=drift):
    def spy(arrays, client, current):
        seen.setdefault(client, []).append(arrays)
        return train(arrays, client, current)

    return spy


@pytest.mark.parametrize("settings", [{}, {"error_feedback": "up"}])
def test_at_the_defaults_no_client_trains_from_weights_that_were_zeroed(settings):
    seen = {}
    grid = PatchyGrid(client_app(spying(seen)), 3)
    SparseTransport(Noting(), **settings).start(grid, array_record(start_arrays()), 3)
    for rounds in seen.values():
        assert len(rounds) == 3
        for name, start in start_arrays().items():
            first = rounds[0][name]
            np.testing.assert_array_equal(
                first, start if name == "bias" else rounded(start)
            )
            assert all(np.count_nonzero(arrays[name]) for arrays in rounds)
            assert all(np.abs(arrays[name] - start).max() < 0.2 for arrays in rounds)


def test_replies_are_noted_only_if_devices_remember_them(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("nobody asks for this receipt")

    monkeypatch.setattr(FleetMemory, "collect", refuse)
    assert len(run(error_feedback="none")[2].given) == 3
    with pytest.raises(AssertionError, match="receipt"):
        run()


def test_the_reference_comes_to_the_strategys_arrays_and_stays_there():
    """What the first differences leave out is sent by the later ones."""
    seen = {}

    def leap_once(arrays, client, current):
        step = 0.1 if current == 1 else 0.0
        return {n: a * np.float32(1 + step) for n, a in arrays.items()}

    settings = {"upload_density": 1, "values": "bfloat16"}
    _, grid, inner, _ = run(spying(seen, leap_once), rounds=12, **settings)
    for name in IN_PAYLOAD:
        ahead = np.abs(seen[0][1][name] - inner.sent[1][name])
        assert ahead.max() > 0.05
        np.testing.assert_allclose(
            seen[0][-1][name], inner.sent[-1][name], rtol=2**-7, atol=1e-6
        )
    sizes = payload_sizes(grid.down)
    assert sizes[-1] < sizes[3] / 4


def test_every_node_trains_from_the_reference_that_the_server_knows():
    _, grid, _, _ = run(nodes=4, rounds=5, inner=Noting(fraction_train=0.5))
    digests = {}
    for node in (1, 2, 3, 4):
        if memory := grid.memory(node):
            digests.setdefault(memory.reference.version, set()).add(
                memory.reference.digest
            )
    assert digests
    assert all(len(each) == 1 for each in digests.values())


EVENTS = {
    "nothing": {},
    "a reply is lost": {(1, 2): "reply lost"},
    "a message is lost": {(2, 2): "message lost"},
    "two in a row": {(1, 2): "reply lost", (1, 3): "reply lost"},
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=list(EVENTS))
def test_what_was_taken_in_plus_what_is_held_is_what_was_trained(events):
    trained = {}

    def noting(arrays, client, current):
        new = drift(arrays, client, current)
        trained.setdefault(client + 1, []).append(
            {n: new[n] - arrays[n] for n in IN_PAYLOAD}
        )
        return new

    _, grid, inner, _ = run(noting, rounds=6, events=events)
    for node in (1, 2, 3):
        memory = grid.memory(node)
        held = memory.layout.unflatten(memory.residual)
        # The last reply is not confirmed yet: the residual is as if it were.
        for name in IN_PAYLOAD:
            taken = sum(
                given[node][name] - sent[name]
                for sent, given in zip(inner.sent, inner.given, strict=True)
                if node in given
            )
            total = sum(step[name] for step in trained[node])
            np.testing.assert_allclose(taken + held[name], total, atol=2e-5)
            assert np.abs(held[name]).max() > 0


def test_without_error_feedback_what_is_left_out_is_lost():
    _, grid, _, _ = run(error_feedback="none", download_density=1)
    assert grid.memory(1) is None


def test_a_node_that_lost_its_state_is_sent_the_whole_reference():
    events = {(2, 3): "state lost"}
    _, grid, inner, _ = run(rounds=5, events=events)
    assert [sorted(failed) for failed in inner.failed] == [[], [], [2], [], []]
    assert "another reference than expected" in inner.failed[2][2]
    down = [m for m in grid.down if m.metadata.dst_node_id == 2]
    sizes = payload_sizes(down)
    assert sizes[3] > 3 * sizes[2]
    assert sizes[4] < sizes[3] / 2
    references = {grid.memory(node).reference.digest for node in (1, 2, 3)}
    assert len(references) == 1


def test_a_whole_reference_is_exact_at_two_bytes_an_entry():
    _, grid, _, _ = run(rounds=6, events={(1, 5): "state lost"})
    size = sum(int(np.prod(SHAPES[name])) for name in IN_PAYLOAD)
    whole = max(payload_sizes(grid.down[6:]))
    assert whole < 2 * size + 200
    assert grid.memory(1).reference.digest == grid.memory(2).reference.digest
    assert grid.stored(1)["reference"].dtype == "uint16"


def test_evaluation_follows_the_same_stream_and_moves_it_once():
    inner = Noting(fraction_evaluate=1.0)
    _, grid, _, _ = run(rounds=3, inner=inner)
    kinds = {}
    for message, size in zip(grid.down, payload_sizes(grid.down), strict=True):
        kinds.setdefault(message.metadata.message_type, []).append(size)
    # The first training message has the whole; from then on the evaluation of a round
    # brings what the next round trains from.
    assert all(size == 0 for size in kinds["train"][3:])
    assert all(size > 0 for size in kinds["evaluate"])
    assert not any(
        PAYLOAD in record
        for message in grid.up
        if "arrays" not in message.content
        for record in message.content.array_records.values()
    )


def test_a_round_without_replies_does_not_stop_the_stream():
    """The strategy's arrays stay, and the rest of the difference is sent."""
    events = {(node, 2): "reply lost" for node in (1, 2, 3)}
    _, grid, inner, _ = run(rounds=4, events=events)
    assert not inner.given[1]
    assert np.array_equal(inner.sent[1]["weight"], inner.sent[2]["weight"])
    assert payload_sizes(grid.down)[6] > 0


def test_a_second_start_begins_anew():
    grid = PatchyGrid(client_app(drift), 3)
    transport = SparseTransport(Noting(), **SPARSE)
    for _ in range(2):
        seen = len(grid.down)
        transport.start(grid, array_record(start_arrays()), 2)
        first, second = payload_sizes(grid.down)[seen : seen + 6 : 3]
        assert first > 3 * second
    memory = grid.memory(1)
    assert memory.trained == 2
    other = PatchyGrid(client_app(drift), 3)
    SparseTransport(Noting(), **SPARSE).start(other, array_record(start_arrays()), 2)
    np.testing.assert_array_equal(memory.residual, other.memory(1).residual)


def test_a_loop_by_hand_is_the_same():
    grid = PatchyGrid(client_app(drift), 3)
    transport = SparseTransport(Noting(), **SPARSE)
    arrays = array_record(start_arrays())
    for current in (1, 2, 3):
        arrays = one_round(transport, grid, arrays, current)
    _, _, _, result = run()
    for name, array in result.arrays.items():  # replies are added in another order
        np.testing.assert_allclose(array.numpy(), arrays[name].numpy(), atol=1e-5)


class TwoRecords(Noting):
    """Sends a second record, and takes it back."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        other = array_record({"m": start_arrays(2.0)["weight"] + server_round})
        for message in messages:
            message.content["other"] = other
        return messages

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.others = [r.content.pop("other")["m"].numpy() for r in replies]
        return super().aggregate_train(server_round, replies)


def test_each_record_has_its_own_memory():
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        new = {
            key: array_record({n: a + np.float32(0.01) for n, a in arrays.items()})
            for key, arrays in (
                (key, arrays_of(message.content[key])) for key in ("arrays", "other")
            )
        }
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict(new | {"metrics": metrics}), reply_to=message)

    grid, inner = PatchyGrid(app, 3), TwoRecords()
    SparseTransport(inner, **SPARSE).start(grid, array_record(start_arrays()), 3)
    assert inner.others[0].shape == SHAPES["weight"]
    for node in (1, 2, 3):
        assert grid.memory(node, "arrays").layout.size == 1500
        assert grid.memory(node, "other").layout.size == 1200


def test_arrays_of_a_record_may_change_their_form():
    """A strategy that switches between models under one key confuses nobody."""

    class Switching(Noting):
        def configure_train(self, server_round, arrays, config, grid):
            if server_round % 2:
                arrays = ArrayRecord({"weight": arrays["weight"]})
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            super().aggregate_train(server_round, replies)
            return array_record(start_arrays()), None

    seen = {}
    _, _, inner, _ = run(spying(seen), rounds=4, inner=Switching())
    assert not any(inner.failed)
    for arrays in seen[0]:
        np.testing.assert_array_equal(
            arrays["weight"], rounded(start_arrays()["weight"])
        )


class Widening(Noting):
    """Makes float64 of its arrays, as QFedAvg does, and evaluates in between."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        wide = {n: a.numpy().astype(np.float64) for n, a in arrays.items()}
        return array_record(wide), metrics


@pytest.mark.parametrize("settings", [{}, {"error_feedback": "up"}])
def test_what_was_taken_in_is_sent_once_if_arrays_change_before_an_evaluation(settings):
    steps = {}

    def noting(arrays, client, current):
        new = drift(arrays, client, current)
        steps[client + 1, current] = new["weight"] - arrays["weight"]
        return new

    inner = Widening(fraction_evaluate=1.0)
    densities = {"upload_density": 1 / 8} | settings
    grid = PatchyGrid(client_app(noting), 3)
    SparseTransport(inner, values="float32", **densities).start(
        grid, array_record(start_arrays()), 3
    )
    for node in (1, 2, 3):
        taken = [
            given[node]["weight"] - sent["weight"]
            for given, sent in zip(inner.given, inner.sent, strict=True)
        ]
        memory = grid.memory(node)
        held = memory.layout.unflatten(memory.residual)["weight"]
        own = sum(steps[node, current] for current in (1, 2, 3))
        np.testing.assert_allclose(sum(taken) + held, own, atol=1e-5)


class Single(Noting):
    """Sends message by message, to each node a model of its own."""

    def start(self, grid, initial_arrays, num_rounds=3, **_):
        self.trained = []
        for current in range(1, num_rounds + 1):
            for node in grid.get_node_ids():
                own = {n: node * a for n, a in start_arrays().items()}
                config = {"server-round": current}
                content = RecordDict(
                    {"arrays": array_record(own), "config": ConfigRecord(config)}
                )
                message = grid.create_message(content, "train", node, "")
                (reply,) = grid.send_and_receive([message])
                self.trained.append((node, arrays_of(reply.content["arrays"])))
        return None


def test_models_that_are_sent_one_by_one_are_not_mixed():
    seen = {}
    grid = PatchyGrid(client_app(spying(seen)), 3)
    SparseTransport(Single(), **SPARSE).start(grid, array_record(start_arrays()), 3)
    for client, rounds in seen.items():
        for arrays in rounds:
            expected = (client + 1) * start_arrays()["weight"]
            np.testing.assert_array_equal(arrays["weight"], rounded(expected))


def test_a_message_that_says_nothing_of_memories_is_as_before():
    _, grid, _, _ = run(error_feedback="none", download_density=1 / 2, rounds=1)
    control = grid.down[0].content[CONTROL]
    assert not [key for key in control if key.startswith("memory")]


def test_bytes_of_catching_up_are_counted():
    grid = RecordingGrid(client_app(drift), 4)
    transport = SparseTransport(
        FedAvg(fraction_train=0.5, fraction_evaluate=0), **SPARSE
    )
    transport.start(grid, array_record(start_arrays()), 4)
    totals = transport.traffic.totals()
    assert totals["payload_bytes_down"] == sum(payload_sizes(grid.down))
