"""Flasc takes the arguments of Flower's strategies."""

from flwr.app import ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Result

from flasc_flwr import Flasc
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import client_app, mixed


def test_flasc_starts_and_returns_like_flowers_strategies(logged):
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
