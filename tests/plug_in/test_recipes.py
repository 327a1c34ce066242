"""The table of settings in docs/plug-in.md: what it says of each kind of app."""

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from flasc_flwr.flower.wire import array_record
from tests.plug_in.digits_app import (
    accuracy,
    digits_client,
    learn,
    network,
    partition,
    sgd,
)
from tests.plug_in.other_replies import (
    FedSGD,
    Personal,
    Scaffold,
    gradient_app,
    personal_app,
    scaffold_app,
)
from tests.plug_in.runs import run


def federated(strategy, app=digits_client, transport=None, **settings):
    """Run without evaluation; return the accuracy, metrics of the last round, savings.

    These are how many times less was sent than plain arrays take.
    """
    reached, strategy, result = learn(
        strategy(fraction_evaluate=0.0), app, transport=transport, **settings
    )
    metrics = list(result.train_metrics_clientapp.values())[-1]
    if transport is None:
        return reached, metrics, 1.0
    totals = strategy.traffic.totals()
    sent = totals["message_bytes_down"] + totals["message_bytes_up"]
    return reached, metrics, strategy.traffic.plain_bytes() / sent


def test_a_lora_adapter_learns_with_the_defaults():
    reached = {}
    for transport in (None, {}):
        strategy = FedAvg(fraction_evaluate=0.0)
        strategy, result = run("lora", strategy, rounds=16, transport=transport)
        metrics = list(result.evaluate_metrics_serverapp.values())
        reached[transport is None] = np.mean([m["accuracy"] for m in metrics[-2:]])
    print(f"LoRA: {reached[True]:.3f} plain, {reached[False]:.3f} wrapped")
    assert reached[False] > reached[True] - 0.05
    totals = strategy.traffic.totals()
    sent = totals["message_bytes_down"] + totals["message_bytes_up"]
    assert strategy.traffic.plain_bytes() > 5 * sent


def pretrained():
    """Return a network that has seen some of the digits."""
    arrays = network(64)
    for current in range(4):
        arrays = sgd(arrays, 0, current, examples=lambda client: partition(0, 2))
    return arrays


def reporting(arrays, client, current):
    """Train a little, and report the accuracy of the arrays that were received."""
    received = accuracy(arrays)
    metrics = MetricRecord({"num-examples": 1, "received": received})
    trained = array_record(sgd(arrays, client, current, lr=0.02))
    return RecordDict({"arrays": trained, "metrics": metrics})


def reporting_app(mods=()):
    return digits_client(reporting, mods)


def test_clients_train_from_a_pretrained_model_that_is_whole():
    start = accuracy(pretrained())
    settings = {"app": reporting_app, "arrays": pretrained(), "rounds": 1}
    _, whole, _ = federated(FedAvg, transport={}, **settings)
    masks = {"error_feedback": "none", "download_density": 1 / 16}
    _, masked, _ = federated(FedAvg, transport=masks, **settings)
    print(f"start {start:.3f}, received {whole}, as masks {masked}")
    assert start > 0.85
    assert whole["received"] == pytest.approx(start, abs=0.005)
    assert masked["received"] < start - 0.04


def test_in_a_small_model_whole_updates_in_8_bits_cost_no_accuracy():
    plain, _, _ = federated(FedAvg)
    whole = {"download_density": 1, "upload_density": 1, "values": "int8"}
    reached, _, times = federated(FedAvg, transport=whole)
    print(f"small model: {plain:.3f} plain, {reached:.3f} wrapped, {times:.1f} times")
    assert reached == pytest.approx(plain, abs=0.01)
    assert times > 2


def test_fedsgd_trains_as_without_the_wrapper():
    settings = {"app": gradient_app, "arrays": network(64), "rounds": 20}
    plain, _, _ = federated(FedSGD, **settings)
    wrapped, _, _ = federated(FedSGD, transport={}, **settings)
    said, _, times = federated(FedSGD, transport={"replies": "updates"}, **settings)
    print(f"FedSGD: {plain:.3f} plain, {wrapped:.3f}, {said:.3f} and {times:.1f} times")
    assert plain > 0.85
    assert wrapped == pytest.approx(plain, abs=0.01)
    assert said == pytest.approx(plain, abs=0.05)
    assert times > 4


def test_scaffold_trains_as_without_the_wrapper():
    settings = {"app": scaffold_app, "arrays": network(32), "rounds": 25}
    plain, _, _ = federated(Scaffold, **settings)
    wrapped, _, _ = federated(Scaffold, transport={}, **settings)
    updates = {"replies": {"control": "updates"}}
    said, _, times = federated(Scaffold, transport=updates, **settings)
    print(f"SCAFFOLD: {plain:.3f} plain, {wrapped:.3f}, {said:.3f}, {times:.1f} times")
    assert plain > 0.9
    assert wrapped == pytest.approx(plain, abs=0.01)
    assert said == pytest.approx(plain, abs=0.01)
    assert times > 4


def test_personal_layers_train_as_without_the_wrapper():
    settings = {"app": personal_app, "arrays": network(64), "rounds": 20}
    _, plain, _ = federated(Personal, **settings)
    _, wrapped, times = federated(Personal, transport={}, **settings)
    print(f"personal layers: {plain} plain, {wrapped} wrapped, {times:.1f} times")
    assert plain["accuracy"] > 0.95
    assert wrapped["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01)
    assert times > 5
