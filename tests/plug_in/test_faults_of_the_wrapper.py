"""What broke projects that were wrapped, by the number of the fault: one test each."""

import json
import random

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord
from flwr.server.strategy import FedAvg as OldFedAvg
from flwr.serverapp.strategy import FedAvg, Result

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.compat import aggregate_metricrecords
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.plug_in.digits_app import accuracy, digits_client, network
from tests.plug_in.numpy_app import client_app, mixed, run_unwrapped, run_wrapped
from tests.plug_in.runs import LOSSLESS

SPARSE = {"download_density": 1, "upload_density": 1 / 16}


class Norms:
    """A user's function for metrics, that also reads arrays."""

    def __init__(self):
        self.seen = []

    def __call__(self, contents, weighted_by_key):
        norms = [
            float(np.linalg.norm(content["arrays"]["weight"].numpy()))
            for content in contents
        ]
        self.seen.append(norms)
        metrics = aggregate_metricrecords(contents, weighted_by_key)
        metrics["norm"] = float(np.mean(norms))
        return metrics


def test_fault_4_a_function_for_metrics_sees_the_arrays_of_each_reply():
    plain, wrapped = Norms(), Norms()
    expected = run_unwrapped(inner=FedAvg(train_metrics_aggr_fn=plain), rounds=2)
    inner = FedAvg(train_metrics_aggr_fn=wrapped)
    _, _, result = run_wrapped(inner=inner, rounds=2, **LOSSLESS)
    assert wrapped.seen == plain.seen
    assert result.train_metrics_clientapp == expected.train_metrics_clientapp
    sparse = Norms()
    run_wrapped(inner=FedAvg(train_metrics_aggr_fn=sparse), rounds=2, **SPARSE)
    assert sparse.seen[0] == pytest.approx(plain.seen[0], rel=0.1)


def test_fault_4_a_function_put_on_an_instance_sees_the_arrays_of_each_reply():
    inner = FedAvg()
    norms, aggregate = [], inner.aggregate_train

    def noting(server_round, replies):
        replies = list(replies)
        for reply in replies:
            norms.append(np.linalg.norm(reply.content["arrays"]["weight"].numpy()))
        return aggregate(server_round, replies)

    inner.aggregate_train = noting
    run_wrapped(inner=inner, **SPARSE)
    assert len(norms) == 4 and min(norms) > 1


class Saving(FedAvg):
    """Flower's example "advanced-pytorch": a loop, settings and files of its own."""

    def set_save_path(self, path):
        self.save_path = path

    def halve_rate(self, config):
        config["lr"] = config["lr"] * 0.5

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 2:
            self.halve_rate(config)
        self.rates = [*getattr(self, "rates", []), config["lr"]]
        return super().configure_train(server_round, arrays, config, grid)

    def start(self, grid, initial_arrays, num_rounds, train_config, evaluate_fn):
        self.best = 0.0
        self.summary()
        result = Result(arrays=initial_arrays)
        for current in range(1, num_rounds + 1):
            replies = grid.send_and_receive(
                messages=self.configure_train(
                    current, result.arrays, train_config, grid
                ),
                timeout=60,
            )
            result.arrays, metrics = self.aggregate_train(current, replies)
            result.train_metrics_clientapp[current] = metrics
            self.save_if_best(current, evaluate_fn(current, result.arrays))
        return result

    def fit(self, grid, arrays, rounds):
        """Do the same under another name."""
        return self.start(
            grid, arrays, rounds, ConfigRecord({"lr": 0.1}), central_accuracy
        )

    def save_if_best(self, current, metrics):
        if metrics["accuracy"] > self.best:
            self.best = metrics["accuracy"]
            row = {"round": current, "accuracy": self.best}
            (self.save_path / "best.json").write_text(json.dumps(row))


def central_accuracy(server_round, arrays):
    return MetricRecord({"accuracy": accuracy(arrays)})


def test_fault_5_a_strategy_with_methods_and_a_loop_of_its_own(tmp_path, logged):
    strategy = SparseTransport(Saving(fraction_evaluate=0.0), **SPARSE)
    strategy.set_save_path(tmp_path)
    strategy.weighted_by_key = "num-examples"
    grid = LocalGrid(digits_client(mods=[flasc_mod]), 5)
    arrays = array_record(network())
    config = ConfigRecord({"lr": 0.1})
    result = strategy.start(
        grid, arrays, num_rounds=3, train_config=config, evaluate_fn=central_accuracy
    )
    assert strategy.rates == strategy.inner.rates == [0.1, 0.05, 0.05]
    best = json.loads((tmp_path / "best.json").read_text())["accuracy"]
    assert best == strategy.best == accuracy(result.arrays) > 0.5
    assert logged().count("Fraction: train") == 1
    assert strategy.traffic.totals(3)["payload_bytes_up"] > 0


def test_fault_5_a_loop_under_another_name_sends_sparse_messages(tmp_path):
    strategy = SparseTransport(Saving(fraction_evaluate=0.0), **SPARSE)
    strategy.save_path = tmp_path
    grid = LocalGrid(digits_client(mods=[flasc_mod]), 5)
    result = strategy.fit(grid, array_record(network()), rounds=2)
    assert accuracy(result.arrays) > 0.5
    totals = strategy.traffic.totals()
    assert totals["payload_bytes_up"] > 0
    assert strategy.traffic.plain_bytes() > totals["message_bytes_up"]


def test_fault_5_what_is_set_on_the_wrapper_is_set_on_the_strategy():
    inner = FedAvg()
    strategy = SparseTransport(inner)
    strategy.evaluate_fn = central_accuracy
    strategy.fraction_train = 0.5
    assert inner.evaluate_fn is strategy.evaluate_fn is central_accuracy
    assert inner.fraction_train == 0.5
    del strategy.evaluate_fn
    assert not hasattr(inner, "evaluate_fn")
    assert "fraction_train" in dir(strategy)
    # The wrapper's own are few, and its own.
    strategy.traffic.rounds.clear()
    assert not hasattr(inner, "traffic")


def test_fault_5_a_method_that_is_replaced_on_the_wrapper_is_used():
    strategy = SparseTransport(FedAvg(fraction_evaluate=0.0), **SPARSE)
    rounds, configure = [], strategy.inner.configure_train

    def noting(server_round, *arguments):
        rounds.append(server_round)
        return configure(server_round, *arguments)

    strategy.configure_train = noting
    strategy.start(LocalGrid(client_app(), 4), array_record(mixed()), 2)
    assert rounds == [1, 2]


def test_fault_5_an_attribute_of_neither_names_both():
    strategy = SparseTransport(Saving())
    says = "neither SparseTransport nor Saving has an attribute 'save_metrics'"
    with pytest.raises(AttributeError, match=says):
        strategy.save_metrics()
    assert not hasattr(strategy, "save_metrics")
    assert getattr(strategy, "rates", None) is None


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        (
            OldFedAvg(),
            r"strategy of Flower's Message API \(flwr.serverapp.strategy\), got FedAvg "
            r"of the old API .*: docs/plug-in.md, section .* shows how to change",
        ),
        (OldFedAvg, "got FedAvg of the old API"),
        (type("Own", (OldFedAvg,), {})(), "got Own of the old API"),
        (FedAvg, r"got the class FedAvg: make one, such as FedAvg\(\)"),
        (None, "such as flwr.serverapp.strategy.FedAvg.., got None"),
        ({"\x1b[2J": 1}, r"got \{'.x1b\[2J': 1\}"),
    ],
)
def test_fault_11_what_cannot_be_wrapped_is_refused_with_what_to_do(inner, says):
    with pytest.raises(ValueError, match=says) as refused:
        SparseTransport(inner)
    assert str(refused.value).isprintable()


def test_fault_12_positional_densities_are_refused_with_what_to_write():
    says = "takes one argument without a name, the strategy.*upload_density=0.25"
    with pytest.raises(TypeError, match=says):
        SparseTransport(FedAvg(), 0.25, 0.0625)


def test_bytes_of_a_second_start_are_counted_from_zero():
    transport, grid, _ = run_wrapped(rounds=2)
    counted = transport.traffic
    first = [counted.totals(n) for n in (1, 2, None)]
    random.seed(0)
    transport.start(grid, array_record(mixed()), 2)
    assert transport.traffic is counted
    assert [counted.totals(n) for n in (1, 2, None)] == first


def test_fault_12_a_strategy_that_counts_bytes_can_count_those_that_travel():
    class Counting(FedAvg):
        """Flower's FlowerTune examples: counts what its messages hold."""

        def aggregate_train(self, server_round, replies):
            totals = self.traffic.totals(server_round)
            self.spent = totals["message_bytes_down"] + totals["message_bytes_up"]
            return super().aggregate_train(server_round, replies)

    inner = Counting(fraction_evaluate=0.0)
    strategy = SparseTransport(inner, **SPARSE)
    inner.traffic = strategy.traffic
    strategy.start(LocalGrid(client_app(), 4), array_record(mixed()), 1)
    sent = strategy.traffic.totals()
    assert inner.spent == sent["message_bytes_down"] + sent["message_bytes_up"] > 0
