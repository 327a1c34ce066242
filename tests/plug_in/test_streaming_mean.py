"""Averaging replies one by one: same results, same metrics, bounded memory."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedYogi,
    QFedAvg,
    fedavg,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from flasc_flwr import SparseTransport
from flasc_flwr.flower.compat import aggregate_metricrecords
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.streaming_mean import needs_only_the_mean
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import WHOLE, all_replies, client_app, mixed, run_wrapped

SETTINGS = {"download_density": 1 / 2, "upload_density": 1 / 3, "values": "float32"}


def arrays_without_half():
    """Return arrays whose rounding does not change what is selected later."""
    return {name: array for name, array in mixed().items() if name != "half"}


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
def test_averaging_one_by_one_equals_averaging_all_together(kind, arguments):
    assert needs_only_the_mean(kind(**arguments))
    assert not needs_only_the_mean(all_replies(kind)(**arguments))
    arrays = array_record(arrays_without_half())
    streamed, together = (
        run_wrapped(inner=inner, arrays=arrays, rounds=3, **SETTINGS)[2]
        for inner in (kind(**arguments), all_replies(kind)(**arguments))
    )
    assert streamed.train_metrics_clientapp == together.train_metrics_clientapp
    assert list(streamed.arrays) == list(together.arrays)
    for name, array in together.arrays.items():
        assert streamed.arrays[name].dtype == array.dtype
        np.testing.assert_allclose(
            streamed.arrays[name].numpy(), array.numpy(), rtol=1e-4, atol=1e-4
        )


class CountsReplies(FedAvg):
    """Overrides aggregate_train, so it may need all replies."""

    def aggregate_train(self, server_round, replies):
        self.count = len(replies)
        return super().aggregate_train(server_round, replies)


@pytest.mark.parametrize(
    "weights", [[1e-50] * 3, [1e-300, 1.0, 1e9], [1e9, 0.0, 1e-3], [2.0**53] * 3]
)
def test_weights_of_any_size_are_averaged(weights):
    app = client_app(examples=lambda client: weights[client])
    arrays = array_record(arrays_without_half())
    streamed, together = (
        run_wrapped(app, inner, arrays=arrays, nodes=3, **SETTINGS)[2]
        for inner in (FedAvg(), all_replies(FedAvg)())
    )
    for name, array in together.arrays.items():
        np.testing.assert_allclose(
            streamed.arrays[name].numpy(), array.numpy(), rtol=1e-4, atol=1e-4
        )


def test_strategies_that_read_all_replies_get_them():
    inner = CountsReplies()
    run_wrapped(inner=inner, **SETTINGS)
    assert inner.count == 4
    for other in (FedMedian(), QFedAvg(client_learning_rate=0.1)):
        assert not needs_only_the_mean(other)

    class Configuring(FedAdam):
        def configure_train(self, *arguments):
            return super().configure_train(*arguments)

    assert needs_only_the_mean(Configuring())


def test_metrics_of_all_replies_reach_a_users_function():
    seen = []

    def aggregate(contents, weighted_by_key):
        seen.append([content["metrics"]["loss"] for content in contents])
        return aggregate_metricrecords(contents, weighted_by_key)

    run_wrapped(inner=FedAvg(train_metrics_aggr_fn=aggregate), **SETTINGS)
    assert sorted(seen[0]) == [0, 1, 2, 3]


def test_the_inner_strategy_keeps_its_class_and_its_state():
    inner = FedAdam()
    run_wrapped(inner=inner, rounds=2, **SETTINGS)
    assert type(inner) is FedAdam
    assert sorted(inner.m_t) == sorted(mixed())


def test_fedavg_reads_one_array_of_a_reply_beside_those_that_travelled_whole(
    monkeypatch,
):
    read = []

    def aggregate(contents, weighted_by_key):
        read.extend(len(content["arrays"]) for content in contents)
        return aggregate_arrayrecords(contents, weighted_by_key)

    monkeypatch.setattr(fedavg, "aggregate_arrayrecords", aggregate)
    run_wrapped(inner=FedAvg(), **SETTINGS)
    assert read == [1 + len(WHOLE)] * 4


def peak_of_aggregation(inner, nodes):
    arrays = {"weight": np.ones((400, 1000), np.float32)}

    def train(received, client, current):
        rng = np.random.default_rng(client)
        noise = 0.1 * rng.standard_normal((400, 1000))
        return {"weight": received["weight"] + noise}

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
    assert peak_of_aggregation(CountsReplies(), 32) > 32
