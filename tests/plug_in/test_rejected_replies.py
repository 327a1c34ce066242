"""Replies that cannot be decoded are rejected with a reason; the round continues."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedMedian

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.core.codec import VERSION
from flasc_flwr.flower.transport import parcel
from flasc_flwr.flower.wire import CONTROL, PAYLOAD, array_record
from tests.payload_bytes import FINGERPRINT_AT, VERSION_AT, changed
from tests.plug_in.numpy_app import SPARSE as NAMES
from tests.plug_in.numpy_app import (
    NotingFedAvg,
    RecordingGrid,
    apart,
    client_app,
    floats,
    mixed,
    run_wrapped,
    step,
)

SPARSE = {"download_density": 1 / 2, "upload_density": 1 / 2}
HINT = "ClientApp(mods=[flasc_mod, ...])"


def one_app_per_node(*apps):
    """Return an app that runs another one on each node."""

    def app(message, context):
        return apps[context.node_config["partition-id"]](message, context)

    return app


def mean_loss(result):
    """Return the mean loss, which depends on the clients that were averaged."""
    return result.train_metrics_clientapp[1]["loss"]


@pytest.mark.parametrize("inner", [FedAvg, FedMedian])
@pytest.mark.parametrize("download", [1 / 2, 1], ids=["sparse", "lossless"])
def test_a_client_without_the_mod_is_rejected_and_logged(inner, download, logged):
    apps = [client_app(), client_app(mods=[]), client_app(), client_app()]
    _, _, result = run_wrapped(
        one_app_per_node(*apps),
        inner(),
        download_density=download,
        upload_density=1 / 2,
        values="float32",
    )
    weights = np.array([10, 30, 40])
    expected = float(np.average([0, 2, 3], weights=weights))
    assert mean_loss(result) == pytest.approx(expected)
    if download == 1:
        said, reason = "Rejected the reply of node 2: ", "did not go through flasc_mod"
    else:
        said, reason = "Node 2: ", "cannot read payloads"
    (line,) = {line for line in logged().splitlines() if line.startswith(said)}
    assert reason in line
    assert HINT in line


def test_reading_a_payload_as_numbers_fails_with_a_hint():
    with pytest.raises(TypeError, match=r"ClientApp\(mods=\[flasc_mod, \.\.\.\]\)"):
        ArrayRecord(
            {PAYLOAD: Array("uint8", (1,), parcel.DOWNLOAD, b"x")}
        ).to_numpy_ndarrays()


def failing(train):
    app = ClientApp()

    @app.train()
    def train_fn(message, context):
        return train(message.content["arrays"])

    return app


def missing_array(arrays):
    return arrays["weight"].numpy()


def in_deployment(arrays):
    raise RuntimeError("<class 'KeyError'>:<''weight''>")  # as a SuperNode reports it


@pytest.mark.parametrize("train", [missing_array, in_deployment])
def test_an_app_without_the_mod_that_does_not_find_an_array_gets_the_hint(
    train, logged
):
    run_wrapped(failing(train), FedAvg(fraction_evaluate=0), download_density=1 / 2)
    said = [x for x in logged().splitlines() if x.startswith("Node ")]
    assert len(said) == 4 and all(HINT in line for line in said)


def out_of_memory(arrays):
    raise RuntimeError("out of memory")


def own_mistake(arrays):
    return arrays["wieght"]


@pytest.mark.parametrize("train", [out_of_memory, own_mistake])
def test_fault_12_apps_that_fail_for_another_reason_are_not_given_the_hint(
    train, logged
):
    run_wrapped(failing(train), FedAvg(fraction_evaluate=0), download_density=1 / 2)
    assert "4 failures" in logged()
    assert "flasc_mod" not in logged()


def test_an_app_that_returns_its_message_is_rejected(logged):
    app = ClientApp()

    @app.train()
    def train(message, context):
        message.content["metrics"] = MetricRecord({"num-examples": 1})
        del message.content["config"]
        return Message(message.content, reply_to=message)

    _, _, result = run_wrapped(app, FedAvg(fraction_evaluate=0))
    assert not result.arrays
    assert logged().count("did not go through flasc_mod") >= 4


def tampered(change):
    """Return a mod that changes the payload that flasc_mod has made on one client."""

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
    return changed(payload, VERSION_AT, bytes([VERSION + 1]))


def flipped(payload):
    payload[-1] ^= 1
    return payload


def of_another_layout(payload):
    return changed(payload, FINGERPRINT_AT, bytes([payload[FINGERPRINT_AT] ^ 1]))


@pytest.mark.parametrize("inner", [FedAvg, NotingFedAvg])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_version, f"version {VERSION + 1}"),
        (flipped, "checksum"),
        (of_another_layout, "layout"),
        (lambda payload: payload[:9], "9 bytes"),
    ],
)
def test_a_payload_that_cannot_be_decoded_fails_only_its_client(
    change, reason, inner, logged
):
    app = client_app(mods=[tampered(change), flasc_mod])
    strategy = inner()
    _, _, result = run_wrapped(app, strategy, **SPARSE)
    expected = float(np.average([0, 2, 3], weights=[10, 30, 40]))
    assert mean_loss(result) == pytest.approx(expected)
    said = "Rejected the reply of node 2: "
    (line,) = [x for x in logged().splitlines() if x.startswith(said)]
    assert reason in line
    assert "Received 3 results and 1 failures" in logged()
    if inner is NotingFedAvg:
        assert [bool(error) for _, error in strategy.outcomes] == [0, 1, 0, 0]


def test_an_update_with_nan_fails_only_its_client(logged):
    def diverged(arrays, client, current):
        trained = step(arrays, client, current)
        if client == 3:
            trained["weight"] = trained["weight"] * np.float32("nan")
        return trained

    _, _, result = run_wrapped(client_app(diverged), **SPARSE)
    expected = float(np.average([0, 1, 2], weights=[10, 20, 30]))
    assert mean_loss(result) == pytest.approx(expected)
    assert np.isfinite(result.arrays["weight"].numpy()).all()
    assert "node 4: array 'weight' must hold finite numbers" in logged()


@pytest.mark.parametrize("name", ["bias", "variance", "weight", "double"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"whole": ["*"]}, {"download_density": 1.0, "values": "float32"}],
    ids=["some travel whole", "all travel whole", "as they are"],
)
def test_row_14_nan_is_refused_however_its_array_travels(logged, name, settings):
    def diverged(arrays, client, current):
        trained = step(arrays, client, current)
        if client == 3:
            trained[name] = trained[name] * trained[name].dtype.type("nan")
        return trained

    _, _, result = run_wrapped(client_app(diverged), **settings)
    expected = float(np.average([0, 1, 2], weights=[10, 20, 30]))
    assert mean_loss(result) == pytest.approx(expected)
    assert np.isfinite(result.arrays[name].numpy()).all()
    assert f"node 4: array {name!r} must hold finite numbers" in logged()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_row_14_what_is_not_finite_already_travels_whole_and_may_stay(value):
    """A causal mask with infinity: the run continues, as it would without."""
    start = floats()
    mask = np.triu(np.full((9, 9), value, np.float32), 1)
    start["causal_mask"] = mask

    def train(arrays, client, current):
        np.testing.assert_array_equal(arrays["causal_mask"], mask)
        return step(arrays, client, current) | {"causal_mask": mask}

    _, grid, result = run_wrapped(client_app(train), arrays=array_record(start))
    assert mean_loss(result) == pytest.approx(
        float(np.average(range(4), weights=range(1, 5)))
    )
    np.testing.assert_array_equal(result.arrays["causal_mask"].numpy(), mask)
    sent = apart(grid.down[0].content["arrays"])
    assert any(key.endswith("/causal_mask") for key in sent)


def test_a_client_reports_a_download_of_another_version(logged):
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
    SparseTransport(FedAvg(), sparse=NAMES).start(grid, array_record(mixed()), 1)
    assert "server and client need the same version of flasc-flwr" in logged()


def test_a_client_reports_control_entries_of_another_version(logged):
    def mod(message, context, call_next):
        message.content[CONTROL]["novelty"] = 1
        return call_next(message, context)

    run_wrapped(client_app(mods=[mod, flasc_mod]), FedAvg(fraction_evaluate=0))
    assert "unknown entries ['novelty']" in logged()
    assert "same version of flasc-flwr" in logged()
