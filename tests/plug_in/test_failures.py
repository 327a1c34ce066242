"""Failed clients, empty rounds and unusable replies end as without the wrapper.

Except that one client's reply, unlike those of the others, fails only that client.
"""

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
)

from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import (
    MASKS,
    NotingFedAvg,
    client_app,
    mixed,
    run_unwrapped,
    run_wrapped,
    step,
)
from tests.plug_in.runs import LOSSLESS

SPARSE = {"download_density": 1 / 2, "upload_density": 1 / 2}

each_density = pytest.mark.parametrize("settings", [LOSSLESS, SPARSE], ids=["1", "1/2"])

# How replies reach the inner strategy.
unencoded = pytest.param(FedAvg, LOSSLESS, id="unencoded")
streamed = pytest.param(FedAvg, SPARSE, id="streamed")
streamed_to_an_optimizer = pytest.param(FedAdam, SPARSE, id="streamed to an optimizer")
all_together = pytest.param(FedMedian, SPARSE, id="all together")


def breaking(*clients):
    def train(arrays, client, current):
        if client in clients:
            raise RuntimeError(f"client {client} is out of battery")
        return step(arrays, client, current)

    return train


@pytest.mark.parametrize(
    ("inner", "settings"),
    [
        unencoded,
        streamed,
        streamed_to_an_optimizer,
        all_together,
        (NotingFedAvg, LOSSLESS),
        (NotingFedAvg, SPARSE),
    ],
)
def test_the_inner_strategy_handles_failed_clients_as_without_the_wrapper(
    inner, settings, logged
):
    plain_inner, wrapped_inner = inner(), inner()
    plain = run_unwrapped(breaking(1, 2), plain_inner, rounds=2)
    wrapped = run_wrapped(
        client_app(breaking(1, 2)), wrapped_inner, rounds=2, **settings
    )[2]
    assert plain.train_metrics_clientapp == wrapped.train_metrics_clientapp
    assert logged().count("aggregate_train: Received 2 results and 2 failures") == 4
    if inner is NotingFedAvg:
        assert plain_inner.outcomes == wrapped_inner.outcomes
        assert [reason for _, reason in plain_inner.outcomes] == [
            "",
            "client 1 is out of battery",
            "client 2 is out of battery",
            "",
        ]
    if settings is LOSSLESS:
        for name, array in plain.arrays.items():
            assert array.data == wrapped.arrays[name].data


@pytest.mark.parametrize(
    ("inner", "settings"),
    [unencoded, streamed, streamed_to_an_optimizer, all_together],
)
def test_a_round_without_valid_replies_changes_nothing(inner, settings):
    plain = run_unwrapped(breaking(0, 1, 2, 3), inner())
    _, _, wrapped = run_wrapped(client_app(breaking(0, 1, 2, 3)), inner(), **settings)
    for result in (plain, wrapped):
        assert result.train_metrics_clientapp == {}
        assert not result.arrays


@each_density
def test_too_few_replies_for_bulyan_skip_the_round(settings, logged):
    _, _, result = run_wrapped(
        client_app(breaking(0, 1)), Bulyan(num_malicious_nodes=0), **settings
    )
    assert not result.arrays
    assert "Insufficient replies, skipping Bulyan aggregation" in logged()


@each_density
def test_clipping_at_the_server_skips_rounds_with_errors(settings, logged):
    inner = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 4)
    _, _, result = run_wrapped(client_app(breaking(0)), inner, **settings)
    assert not result.arrays
    assert "Some clients reported errors. Skipping aggregation." in logged()


@each_density
def test_a_round_without_messages(settings):
    transport, grid, result = run_wrapped(
        inner=FedAvg(fraction_train=0.0, fraction_evaluate=0.0), rounds=2, **settings
    )
    assert grid.down == []
    assert transport.traffic.sent == []
    assert not result.arrays


def two_metrics(arrays, client, current):
    arrays = array_record(step(arrays, client, current))
    metrics = MetricRecord({"num-examples": 1})
    return RecordDict({"arrays": arrays, "metrics": metrics, "more": metrics})


def no_weight(arrays, client, current):
    arrays = array_record(step(arrays, client, current))
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"loss": 1.0})})


def two_records(arrays, client, current):
    arrays = array_record(step(arrays, client, current))
    metrics = MetricRecord({"num-examples": 1})
    return RecordDict({"arrays": arrays, "more": arrays, "metrics": metrics})


def renamed(arrays, client, current):
    """Reply with another name, from one client only."""
    trained = step(arrays, client, current)
    if client == 2:
        trained["kernel"] = trained.pop("weight")
    return trained


@pytest.mark.parametrize(("inner", "settings"), [unencoded, streamed, all_together])
def test_a_reply_of_other_names_from_one_client_fails_only_that_client(
    inner, settings, logged
):
    """Without the wrapper it ends the run."""
    with pytest.raises(InconsistentMessageReplies):
        run_unwrapped(renamed, inner())
    _, _, result = run_wrapped(client_app(renamed), inner(), rounds=2, **settings)
    _, _, failed = run_wrapped(client_app(breaking(2)), inner(), rounds=2, **settings)
    assert result.train_metrics_clientapp == failed.train_metrics_clientapp
    for name, array in failed.arrays.items():
        assert result.arrays[name].data == array.data
    said = "Rejected the reply of node 3: its "
    assert sum(line.startswith(said) for line in logged().splitlines()) == 2


@pytest.mark.parametrize(("inner", "settings"), [unencoded, streamed, all_together])
@pytest.mark.parametrize("train", [two_metrics, no_weight, two_records])
def test_replies_that_are_all_unusable_raise_as_without_the_wrapper(
    train, inner, settings
):
    with pytest.raises(InconsistentMessageReplies) as plain:
        run_unwrapped(train, inner())
    with pytest.raises(InconsistentMessageReplies) as wrapped:
        run_wrapped(client_app(train), inner(), **settings)
    assert str(plain.value) == str(wrapped.value)


@each_density
def test_weights_that_sum_to_zero_fail_as_without_the_wrapper(settings):
    with pytest.raises(ZeroDivisionError):
        run_unwrapped(examples=lambda client: 0)
    with pytest.raises(ZeroDivisionError):
        run_wrapped(client_app(examples=lambda client: 0), **settings)


def test_arrays_of_other_names_reach_the_inner_strategy_unchanged():
    """Strategies may use replies that have none of the arrays sent."""

    def head_only(arrays, client, current):
        return {"head": np.full((2, 2), client, np.float32)}

    _, _, wrapped = run_wrapped(client_app(head_only), **SPARSE)
    plain = run_unwrapped(head_only)
    assert list(wrapped.arrays) == ["head"]
    assert wrapped.arrays["head"].data == plain.arrays["head"].data


def test_a_reply_with_some_of_the_arrays_is_added_to_the_current_ones():
    """Entries masked in the download are not lost."""

    def part(arrays, client, current):
        return {"weight": arrays["weight"]}

    _, _, result = run_wrapped(client_app(part), download_density=1 / 4, **MASKS)
    np.testing.assert_allclose(
        result.arrays["weight"].numpy(), mixed()["weight"], rtol=1e-5
    )
