"""Strategies that run their own round loop, and loops without a strategy's start."""

import random
import time

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Result

from flasc_flwr import SparseTransport
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport import encoding_grid
from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.plug_in.numpy_app import (
    SPARSE,
    RecordingGrid,
    all_replies,
    client_app,
    floats,
    mixed,
    run_wrapped,
    step,
)

SETTINGS = {
    "download_density": 1 / 2,
    "upload_density": 1 / 3,
    "values": "float32",
    "sparse": SPARSE,
}


class Early(FedAvg):
    """Runs its own loop, which ends after `enough` rounds."""

    def start(self, grid, initial_arrays, num_rounds=3, *, enough=2, **_):
        result = Result(arrays=initial_arrays)
        for current in range(1, num_rounds + 1):
            messages = self.configure_train(
                current, result.arrays, ConfigRecord(), grid
            )
            replies = self.exchange(grid, messages)
            result.arrays, metrics = self.aggregate_train(current, replies)
            result.train_metrics_clientapp[current] = metrics
            if current == enough:
                break
        return result

    def exchange(self, grid, messages):
        return grid.send_and_receive(messages, timeout=60)


class EarlyPulling(Early):
    """The same, but pushes and pulls its messages."""

    def exchange(self, grid, messages):
        assert [node.node_id for node in grid.get_nodes()] == grid.get_node_ids()
        return grid.pull_messages(grid.push_messages(messages))


@pytest.mark.parametrize("kind", [Early, EarlyPulling])
def test_a_strategy_may_run_its_own_loop(kind, logged):
    random.seed(0)
    grid = RecordingGrid(client_app(), 4)
    transport = SparseTransport(kind(), **SETTINGS)
    result = transport.start(grid, array_record(mixed()), num_rounds=5, enough=3)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    _, _, expected = run_wrapped(
        inner=all_replies(FedAvg)(fraction_evaluate=0.0), rounds=3, **SETTINGS
    )
    for name, array in expected.arrays.items():
        assert result.arrays[name].data == array.data
    assert transport.traffic.totals(3)["payload_bytes_up"] > 0
    assert transport.traffic.totals(4)["payload_bytes_up"] == 0
    assert "SparseTransport: " in logged()


def test_a_loop_may_call_configure_and_aggregate():
    transport = SparseTransport(FedAvg(), **SETTINGS)
    grid = LocalGrid(client_app(), 4)
    arrays = array_record(mixed())
    for current in (1, 2):
        messages = transport.configure_train(current, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages)
        arrays, metrics = transport.aggregate_train(current, replies)
    assert metrics["loss"] == pytest.approx(2.0)


class InParts(FedAvg):
    """Sends in one method and pulls in another, each called by the app."""

    def send(self, grid, current, arrays):
        self.current, config = current, ConfigRecord({"server-round": current})
        messages = self.configure_train(current, arrays, config, grid)
        return list(grid.push_messages(messages))

    def take(self, grid, ids):
        return self.aggregate_train(self.current, grid.pull_messages(ids))[0]


def test_a_strategy_may_send_in_one_call_and_pull_in_another():
    grid, arrays = RecordingGrid(client_app(), 4), array_record(mixed())
    strategy = SparseTransport(InParts(), **SETTINGS)
    random.seed(0)
    result = arrays
    for current in (1, 2):
        ids = strategy.send(grid, current, result)
        result = strategy.take(strategy.encoding_grid(grid), ids)
        assert strategy.traffic.totals(current)["payload_bytes_up"] > 0
    _, _, expected = run_wrapped(
        inner=all_replies(FedAvg)(fraction_evaluate=0.0), rounds=2, **SETTINGS
    )
    for name, array in expected.arrays.items():
        assert result[name].data == array.data


def test_aggregating_before_configuring_is_an_error():
    with pytest.raises(RuntimeError, match="configure comes before aggregate"):
        SparseTransport(FedAvg()).aggregate_train(1, [])


def test_a_reply_of_another_round_is_an_error():
    transport = SparseTransport(FedAvg(), **SETTINGS)
    grid = LocalGrid(client_app(step), 4)
    arrays = array_record(mixed())
    old = transport.configure_train(1, arrays, ConfigRecord(), grid)
    replies = grid.send_and_receive(old)
    transport.configure_train(2, arrays, ConfigRecord(), grid)
    with pytest.raises(RuntimeError, match="answers no message of this round"):
        transport.aggregate_train(2, replies)


class PerNode(FedAvg):
    """Sends different arrays to each node, and averages what comes back."""

    def configure_train(self, server_round, arrays, config, grid):
        config = ConfigRecord({"server-round": server_round})
        messages = []
        for node in sorted(grid.get_node_ids()):
            own = {
                name: array + array.dtype.type(node) for name, array in floats().items()
            }
            content = RecordDict({"arrays": array_record(own), "config": config})
            messages.append(Message(content, node, "train"))
        return messages


def test_each_node_may_get_different_arrays():
    app = client_app(lambda arrays, client, current: arrays, examples=lambda c: 1)
    _, grid, result = run_wrapped(app, PerNode(fraction_evaluate=0.0), **SETTINGS)
    payloads = {message.content["arrays"]["payload"].data for message in grid.down}
    assert len(payloads) == 4
    np.testing.assert_allclose(
        result.arrays["weight"].numpy(), mixed()["weight"] + 2.5, rtol=1e-5
    )


def test_messages_that_are_never_answered_are_forgotten_once_they_expire(monkeypatch):
    """Their arrays take memory, and their node cannot use its memory meanwhile."""

    class Losing(RecordingGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            lost = {2} if self.current == 2 else set()
            return [r for r in replies if r.metadata.src_node_id not in lost]

    class Expiring(InParts):
        def configure_train(self, server_round, arrays, config, grid):
            messages = super().configure_train(server_round, arrays, config, grid)
            return [
                Message(m.content, m.metadata.dst_node_id, "train", ttl=600)
                for m in messages
            ]

    strategy = SparseTransport(Expiring(), values="float32", sparse=SPARSE)
    grid, arrays = Losing(client_app(), 3), array_record(mixed())
    sizes, waiting = [], []
    for current in range(1, 6):
        grid.current = current
        if current == 4:
            monkeypatch.setattr(encoding_grid, "time", lambda: time.time() + 601)
        ids = strategy.send(grid, current, arrays)
        arrays = strategy.take(strategy.encoding_grid(grid), ids)
        sent = {m.metadata.dst_node_id: m.content["arrays"] for m in grid.down[-3:]}
        sizes.append({node: len(sent[node][PAYLOAD].data) for node in sent})
        waiting.append(len(strategy.encoding_grid(grid)._trips))
    assert waiting == [0, 1, 1, 0, 0]
    # In round 3 node 2 is sent a whole download, and later what the others are sent.
    equal = [size[2] == size[1] for size in sizes]
    assert equal == [True, True, False, False, True]
