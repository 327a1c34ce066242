"""Which strategies can be wrapped, and what stays as it is."""

import random
import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedYogi,
    QFedAvg,
    Result,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flasc_flwr import Flasc, SparseTransport, flasc_mod
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.streaming import needs_only_the_mean
from flasc_flwr.flower.wire import array_record
from tests.plug_in.plain import RecordingGrid, client_app, floats, mixed, start, step

SETTINGS = {"download_density": 1 / 2, "upload_density": 1 / 3, "values": "float32"}


def fine():
    """Return arrays whose rounding decides about no entry in later rounds."""
    return {name: array for name, array in mixed().items() if name != "half"}


class All(FedAvg):
    """Needs all replies, as far as anybody can tell."""

    def aggregate_train(self, server_round, replies):
        self.count = len(replies)
        return super().aggregate_train(server_round, replies)


def all_replies(kind):
    """Return a subclass that gets all replies, and does the same with them."""

    class Subclass(kind):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, list(replies))

    return Subclass


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (FedAvg, {}),
        (FedProx, {"proximal_mu": 0.1}),
        (FedAvgM, {"server_momentum": 0.9, "server_learning_rate": 0.5}),
        (FedAdam, {}),
        (FedYogi, {}),
        (FedAdagrad, {}),
    ],
)
def test_reducing_replies_one_by_one_gives_what_all_of_them_give(kind, arguments):
    assert needs_only_the_mean(kind(**arguments))
    assert not needs_only_the_mean(all_replies(kind)(**arguments))
    reduced, given = (
        start(inner=inner, arrays=array_record(fine()), rounds=3, **SETTINGS)[2]
        for inner in (kind(**arguments), all_replies(kind)(**arguments))
    )
    assert reduced.train_metrics_clientapp == given.train_metrics_clientapp
    assert list(reduced.arrays) == list(given.arrays)
    for name, array in given.arrays.items():
        assert reduced.arrays[name].dtype == array.dtype
        np.testing.assert_allclose(
            reduced.arrays[name].numpy(), array.numpy(), rtol=1e-4, atol=1e-4
        )


def test_strategies_that_read_all_replies_get_them():
    inner = All()
    start(inner=inner, **SETTINGS)
    assert inner.count == 4
    for other in (FedMedian(), QFedAvg(client_learning_rate=0.1)):
        assert not needs_only_the_mean(other)

    class Configuring(FedAdam):
        def configure_train(self, *arguments):
            return super().configure_train(*arguments)

    assert needs_only_the_mean(Configuring())


def test_metrics_of_all_replies_reach_a_users_function():
    seen = []

    def put_together(contents, weighted_by_key):
        seen.append([content["metrics"]["loss"] for content in contents])
        return aggregate_metricrecords(contents, weighted_by_key)

    start(inner=FedAvg(train_metrics_aggr_fn=put_together), **SETTINGS)
    assert sorted(seen[0]) == [0, 1, 2, 3]


def test_the_inner_strategy_keeps_its_class_and_its_state():
    inner = FedAdam()
    start(inner=inner, rounds=2, **SETTINGS)
    assert type(inner) is FedAdam
    assert sorted(inner.m_t) == sorted(mixed())


def peak_of_aggregation(inner, nodes):
    arrays = {"weight": np.ones((400, 1000), np.float32)}

    def train(received, client, current):
        rng = np.random.default_rng(client)
        return {"weight": received["weight"] + rng.standard_normal((400, 1000))}

    transport = SparseTransport(inner, download_density=1 / 4, upload_density=1 / 64)
    grid = LocalGrid(client_app(train), nodes)
    messages = transport.configure_train(1, array_record(arrays), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages))
    tracemalloc.start()
    transport.aggregate_train(1, replies)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (4 * 400 * 1000)


def test_memory_does_not_grow_with_the_cohort():
    few, many = (peak_of_aggregation(FedAvg(), nodes) for nodes in (4, 32))
    print(f"peak over 4 N: {few:.1f} for 4 replies, {many:.1f} for 32")
    assert many < few + 1
    assert peak_of_aggregation(All(), 32) > 32


class Early(FedAvg):
    """A user's own loop: ends when it has seen enough."""

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
    """The same with messages that it pushes and pulls."""

    def exchange(self, grid, messages):
        assert [node.node_id for node in grid.get_nodes()] == grid.get_node_ids()
        return grid.pull_messages(grid.push_messages(messages))


@pytest.mark.parametrize("kind", [Early, EarlyPulling])
def test_a_strategy_with_a_loop_of_its_own_runs_it(kind, logged):
    random.seed(0)
    grid = RecordingGrid(client_app(), 4)
    transport = SparseTransport(kind(), **SETTINGS)
    result = transport.start(grid, array_record(mixed()), num_rounds=5, enough=3)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    _, _, expected = start(
        inner=all_replies(FedAvg)(fraction_evaluate=0.0), rounds=3, **SETTINGS
    )
    for name, array in expected.arrays.items():
        assert result.arrays[name].data == array.data
    assert transport.traffic.totals(3)["payload_bytes_up"] > 0
    assert transport.traffic.totals(4)["payload_bytes_up"] == 0
    assert "SparseTransport: " in logged()


def test_a_loop_by_hand_works():
    transport = SparseTransport(FedAvg(), **SETTINGS)
    grid = LocalGrid(client_app(), 4)
    arrays = array_record(mixed())
    for current in (1, 2):
        messages = transport.configure_train(current, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages)
        arrays, metrics = transport.aggregate_train(current, replies)
    assert metrics["loss"] == pytest.approx(2.0)


def client_fixed(inner):
    return DifferentialPrivacyClientSideFixedClipping(inner, 0.0, 5.0, 4)


def client_adaptive(inner):
    return DifferentialPrivacyClientSideAdaptiveClipping(inner, 0.0, 4)


def server_fixed(inner):
    return DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 5.0, 4)


def server_adaptive(inner):
    return DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, 4)


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(client_fixed, fixedclipping_mod), (client_adaptive, adaptiveclipping_mod)],
)
def test_client_side_clipping_may_be_inside_or_outside(wrapper, mod):
    results = []
    for strategy in (
        SparseTransport(wrapper(FedAvg()), **SETTINGS),
        wrapper(SparseTransport(FedAvg(), **SETTINGS)),
    ):
        random.seed(0)
        grid = LocalGrid(client_app(mods=[flasc_mod, mod]), 4)
        results.append(strategy.start(grid, array_record(floats()), 2))
    inside, outside = results
    assert len(inside.train_metrics_clientapp) == 2
    assert inside.train_metrics_clientapp == outside.train_metrics_clientapp
    for name, array in inside.arrays.items():
        np.testing.assert_allclose(
            array.numpy(), outside.arrays[name].numpy(), rtol=2e-3, atol=1e-5
        )


@pytest.mark.parametrize("wrapper", [server_fixed, server_adaptive])
def test_server_side_clipping_belongs_inside(wrapper):
    """It reads the replies' arrays; outside it gets an error that says so."""
    arrays = array_record(floats())
    _, _, result = start(inner=wrapper(FedAvg()), arrays=arrays, **SETTINGS)
    assert result.arrays
    strategy = wrapper(SparseTransport(FedAvg(), **SETTINGS))
    with pytest.raises(TypeError, match="SparseTransport, which must be the outermost"):
        strategy.start(LocalGrid(client_app(), 4), arrays, 1)


class PerNode(FedAvg):
    """Sends other arrays to each node, and takes the mean of what comes back."""

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


def test_every_node_may_get_arrays_of_its_own():
    app = client_app(lambda arrays, client, current: arrays, examples=lambda c: 1)
    _, grid, result = start(app, PerNode(fraction_evaluate=0.0), **SETTINGS)
    payloads = {message.content["arrays"]["payload"].data for message in grid.down}
    assert len(payloads) == 4
    np.testing.assert_allclose(
        result.arrays["weight"].numpy(), mixed()["weight"] + 2.5, rtol=1e-5
    )


def test_summary_shows_both(logged):
    SparseTransport(FedAdam(eta=0.25), upload_density=1 / 16).summary()
    text = logged()
    assert "├──> Sparse transport:" in text
    assert "Density: download (0.25) | upload (0.0625)" in text
    assert "Inner strategy: FedAdam" in text
    assert "├──> FedOpt settings:" in text
    assert "eta (0.25)" in text


def test_flasc_is_a_strategy_like_flowers(logged):
    """The same arguments, the same result, the same tree."""
    strategy = Flasc(fraction_train=0.5, fraction_evaluate=0.5, min_train_nodes=1)
    app = client_app(
        lambda arrays, client, current: {k: v + 1 for k, v in arrays.items()}
    )
    result = strategy.start(
        grid=LocalGrid(app, 4),
        initial_arrays=array_record({"w": mixed()["weight"]}),
        num_rounds=2,
        timeout=60,
        train_config=ConfigRecord({"lr": 0.1}),
        evaluate_config=ConfigRecord({"part": 1}),
        evaluate_fn=lambda current, arrays: MetricRecord({"norm": 1.0}),
    )
    assert isinstance(result, Result)
    assert sorted(result.evaluate_metrics_serverapp) == [0, 1, 2]
    assert sorted(result.train_metrics_clientapp) == [1, 2]
    assert "├──> Method: flasc" in logged()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"download_density": 0}, r"download_density must be a number in"),
        ({"upload_density": 1.5}, "upload_density must be .*, got 1.5"),
        ({"values": "float8"}, "values must be one of 'float32'"),
        ({"whole": "*.bias"}, r"whole is '\*.bias', allowed is a list of names"),
        ({"inner": Flasc()}, "inner is a Flasc, which sends sparse messages itself"),
        (
            {"inner": SparseTransport(FedAvg())},
            "inner is a SparseTransport, which sends sparse messages itself",
        ),
        ({"inner": LegacyFedAvg()}, "allowed is a strategy of flwr.serverapp"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(arguments, message):
    inner = arguments.pop("inner", None) or FedAvg()
    with pytest.raises(ValueError, match=message):
        SparseTransport(inner, **arguments)


def test_aggregating_before_configuring_is_told():
    with pytest.raises(RuntimeError, match="configure comes before aggregate"):
        SparseTransport(FedAvg()).aggregate_train(1, [])


def test_a_reply_of_another_round_is_told():
    transport = SparseTransport(FedAvg(), **SETTINGS)
    grid = LocalGrid(client_app(step), 4)
    arrays = array_record(mixed())
    old = transport.configure_train(1, arrays, ConfigRecord(), grid)
    replies = grid.send_and_receive(old)
    transport.configure_train(2, arrays, ConfigRecord(), grid)
    with pytest.raises(RuntimeError, match="answers no message of this round"):
        transport.aggregate_train(2, replies)
