"""Failures, empty rounds, and replies that do not fit: the same as without."""

import struct
import zlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
)

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.core.codec.payload import VERSION
from flasc_flwr.flower.transport import parcel
from flasc_flwr.flower.wire import CONTROL, PAYLOAD, array_record
from tests.plug_in.plain import RecordingGrid, client_app, mixed, plainly, start, step
from tests.plug_in.runs import EXACT

SPARSE = {"download_density": 1 / 2, "upload_density": 1 / 2}
ADVICE = (
    "add flasc_mod to the ClientApp, before its other mods: "
    "ClientApp(mods=[flasc_mod, ...])"
)

each_density = pytest.mark.parametrize("settings", [EXACT, SPARSE], ids=["1", "1/2"])


class Noting:
    """Notes which replies it is given, beside what it is mixed into."""

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.outcomes = sorted(
            (
                reply.metadata.src_node_id,
                reply.error.reason if reply.has_error() else "",
            )
            for reply in replies
        )
        return super().aggregate_train(server_round, replies)


class NotingFedAvg(Noting, FedAvg):
    pass


def breaking(*clients):
    def train(arrays, client, current):
        if client in clients:
            raise RuntimeError(f"client {client} is out of battery")
        return step(arrays, client, current)

    return train


@each_density
@pytest.mark.parametrize("inner", [FedAvg, FedAdam, FedMedian, NotingFedAvg])
def test_failures_of_clients_are_what_the_inner_strategy_makes_of_them(
    inner, settings, logged
):
    plain_inner, wrapped_inner = inner(), inner()
    plain = plainly(breaking(1, 2), plain_inner, rounds=2)
    wrapped = start(client_app(breaking(1, 2)), wrapped_inner, rounds=2, **settings)[2]
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
    if settings is EXACT:
        for name, array in plain.arrays.items():
            assert array.data == wrapped.arrays[name].data


@each_density
@pytest.mark.parametrize("inner", [FedAvg, FedAdam, FedMedian])
def test_a_round_without_usable_replies_changes_nothing(inner, settings):
    plain = plainly(breaking(0, 1, 2, 3), inner())
    _, _, wrapped = start(client_app(breaking(0, 1, 2, 3)), inner(), **settings)
    for result in (plain, wrapped):
        assert result.train_metrics_clientapp == {}
        assert not result.arrays


@each_density
def test_too_few_replies_for_bulyan_skip_the_round(settings, logged):
    _, _, result = start(
        client_app(breaking(0, 1)), Bulyan(num_malicious_nodes=0), **settings
    )
    assert not result.arrays
    assert "Insufficient replies, skipping Bulyan aggregation" in logged()


@each_density
def test_clipping_at_the_server_skips_rounds_with_errors(settings, logged):
    inner = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 4)
    _, _, result = start(client_app(breaking(0)), inner, **settings)
    assert not result.arrays
    assert "Some clients reported errors. Skipping aggregation." in logged()


@each_density
def test_a_round_without_messages(settings):
    transport, grid, result = start(
        inner=FedAvg(fraction_train=0.0, fraction_evaluate=0.0), rounds=2, **settings
    )
    assert grid.down == []
    assert transport.traffic.sent == []
    assert not result.arrays


def renamed(arrays, client, current):
    """Answer with another name, from one client alone."""
    trained = step(arrays, client, current)
    if client == 2:
        trained["kernel"] = trained.pop("weight")
    return trained


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


@each_density
@pytest.mark.parametrize("inner", [FedAvg, FedAdam, FedMedian])
@pytest.mark.parametrize("train", [renamed, two_metrics, no_weight, two_records])
def test_inconsistent_replies_end_the_run_as_they_would(train, inner, settings):
    with pytest.raises(InconsistentMessageReplies) as plain:
        plainly(train, inner())
    with pytest.raises(InconsistentMessageReplies) as wrapped:
        start(client_app(train), inner(), **settings)
    assert str(plain.value) == str(wrapped.value)


@each_density
def test_weights_that_sum_to_zero_fail_as_they_would(settings):
    with pytest.raises(ZeroDivisionError):
        plainly(examples=lambda client: 0)
    with pytest.raises(ZeroDivisionError):
        start(client_app(examples=lambda client: 0), **settings)


def test_arrays_of_another_form_pass_as_they_are():
    """Strategies may use replies that have nothing of what was sent."""

    def head_alone(arrays, client, current):
        return {"head": np.full((2, 2), client, np.float32)}

    _, _, wrapped = start(client_app(head_alone), **SPARSE)
    plain = plainly(head_alone)
    assert list(wrapped.arrays) == ["head"]
    assert wrapped.arrays["head"].data == plain.arrays["head"].data


def test_a_part_of_the_arrays_is_put_on_the_current_ones():
    """What was masked in the download is not lost where it is trained further."""

    def part(arrays, client, current):
        return {"weight": arrays["weight"]}

    _, _, result = start(client_app(part), download_density=1 / 4)
    np.testing.assert_allclose(
        result.arrays["weight"].numpy(), mixed()["weight"], rtol=1e-5
    )


def mixed_apps(*apps):
    """Return an app that is another one on each node."""

    def app(message, context):
        return apps[context.node_config["partition-id"]](message, context)

    return app


def trained_by(result):
    """Return the mean loss, which tells which clients were averaged."""
    return result.train_metrics_clientapp[1]["loss"]


@pytest.mark.parametrize("inner", [FedAvg, FedMedian])
@pytest.mark.parametrize("download", [1 / 2, 1], ids=["sparse", "plain"])
def test_a_client_without_the_mod_is_told_and_the_others_go_on(inner, download, logged):
    apps = [client_app(), client_app(mods=[]), client_app(), client_app()]
    _, _, result = start(
        mixed_apps(*apps),
        inner(),
        download_density=download,
        upload_density=1 / 2,
        values="float32",
    )
    weights = np.array([10, 30, 40])
    expected = float(np.average([0, 2, 3], weights=weights))
    assert trained_by(result) == pytest.approx(expected)
    assert ADVICE in logged()
    if download == 1:
        assert "node 2 is not used: its arrays did not go through flasc_mod" in logged()
    else:
        assert f"Node 2: its ClientApp cannot read payloads: {ADVICE}" in logged()


def test_the_error_of_a_client_without_the_mod_names_it():
    with pytest.raises(TypeError, match=r"ClientApp\(mods=\[flasc_mod, \.\.\.\]\)"):
        ArrayRecord(
            {PAYLOAD: Array("uint8", (1,), parcel.DOWNLOAD, b"x")}
        ).to_numpy_ndarrays()


def test_if_nobody_has_the_mod_the_log_says_so(logged):
    app = ClientApp()

    @app.train()
    def train(message, context):
        return message.content["arrays"]["weight"].numpy()

    start(app, FedAvg(fraction_evaluate=0))
    assert f"No reply can be used. If not yet done, {ADVICE}" in logged()


def test_an_app_that_sends_back_what_came_is_told(logged):
    app = ClientApp()

    @app.train()
    def train(message, context):
        message.content["metrics"] = MetricRecord({"num-examples": 1})
        del message.content["config"]
        return Message(message.content, reply_to=message)

    _, _, result = start(app, FedAvg(fraction_evaluate=0))
    assert not result.arrays
    assert logged().count("did not go through flasc_mod") >= 4


def tampered(change):
    """Return a mod that changes the payload which flasc_mod has made."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        record = reply.content.array_records.get("arrays")
        if record and PAYLOAD in record and context.node_config["partition-id"] == 1:
            payload = change(bytearray(record[PAYLOAD].data))
            record[PAYLOAD] = Array(
                "uint8", (len(payload),), parcel.UPLOAD, bytes(payload)
            )
        return reply

    return mod


def other_version(payload):
    payload[4] = VERSION + 1
    payload[48:52] = bytes(4)
    payload[48:52] = struct.pack("<I", zlib.crc32(payload))
    return payload


def flipped(payload):
    payload[-1] ^= 1
    return payload


def of_another_layout(payload):
    payload[16] ^= 1
    payload[48:52] = bytes(4)
    payload[48:52] = struct.pack("<I", zlib.crc32(payload))
    return payload


@pytest.mark.parametrize("inner", [FedAvg, NotingFedAvg, FedMedian])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            other_version,
            f"payload has version {VERSION + 1}, this is {VERSION}: server",
        ),
        (flipped, "checksum does not match"),
        (of_another_layout, "payload is of layout"),
        (lambda payload: payload[:30], "payload has 30 bytes, less than its header"),
    ],
)
def test_a_payload_that_cannot_be_read_fails_its_client_alone(
    change, reason, inner, logged
):
    app = client_app(mods=[tampered(change), flasc_mod])
    strategy = inner()
    _, _, result = start(app, strategy, **SPARSE)
    expected = float(np.average([0, 2, 3], weights=[10, 30, 40]))
    assert trained_by(result) == pytest.approx(expected)
    assert f"The reply of node 2 is not used: {reason}" in logged()
    assert "Received 3 results and 1 failures" in logged()
    if inner is NotingFedAvg:
        assert [bool(error) for _, error in strategy.outcomes] == [0, 1, 0, 0]


def test_an_update_with_nan_fails_its_client_alone(logged):
    def diverged(arrays, client, current):
        trained = step(arrays, client, current)
        if client == 3:
            trained["weight"] = trained["weight"] * np.float32("nan")
        return trained

    _, _, result = start(client_app(diverged), **SPARSE)
    expected = float(np.average([0, 1, 2], weights=[10, 20, 30]))
    assert trained_by(result) == pytest.approx(expected)
    assert np.isfinite(result.arrays["weight"].numpy()).all()
    assert "node 4: vector holds nan" in logged()


def test_a_download_of_another_version_is_told_by_the_client(logged):
    class Newer(RecordingGrid):
        def push_messages(self, messages):
            messages = list(messages)
            for message in messages:
                record = message.content["arrays"]
                if PAYLOAD in record:
                    payload = other_version(bytearray(record[PAYLOAD].data))
                    stype = record[PAYLOAD].stype
                    changed = ArrayRecord(dict(record))
                    changed[PAYLOAD] = Array(
                        "uint8", (len(payload),), stype, bytes(payload)
                    )
                    message.content = RecordDict({**message.content, "arrays": changed})
            return super().push_messages(messages)

    grid = Newer(client_app(), 3)
    SparseTransport(FedAvg()).start(grid, array_record(mixed()), 1)
    assert "server and client need the same version of flasc-flwr" in logged()


def test_an_order_of_another_version_is_told(logged):
    def mod(message, context, call_next):
        message.content[CONTROL]["novelty"] = 1
        return call_next(message, context)

    start(client_app(mods=[mod, flasc_mod]), FedAvg(fraction_evaluate=0))
    assert "do server and client run the same flasc-flwr?" in logged()
