"""Which ArrayRecords become parcels, and under which keys they come back."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import flasc_mod
from flasc_flwr.flower.transport.parcel import DOWNLOAD, UPLOAD, is_parcel
from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.plug_in.numpy_app import (
    NotingFedAvg,
    apart,
    client_app,
    mixed,
    run_wrapped,
    step,
)


def test_a_content_shared_by_messages_is_encoded_once():
    _, grid, _ = run_wrapped()
    contents = {id(m.content["arrays"]) for m in grid.down[:4]}
    assert len(contents) == 1


def test_named_arrays_travel_whole():
    _, grid, _ = run_wrapped(whole=["dou*", "counter"])
    keys = sorted(apart(grid.down[0].content["arrays"]))
    by_rule = ["0/counter", "2/bias", "4/mask", "6/variance"]
    assert keys == sorted([*by_rule, "3/double", PAYLOAD])


def test_a_record_without_floating_point_arrays_travels_unchanged():
    record = array_record({"0": np.arange(50, dtype=np.uint8)})

    def grow(arrays, client, current):
        return {"0": np.concatenate([arrays["0"], arrays["0"]])}

    _, grid, result = run_wrapped(client_app(grow), arrays=record)
    assert list(grid.down[0].content) == ["arrays", "config"]
    assert result.arrays["0"].shape == (100,)


@pytest.mark.parametrize(
    "settings", [{"download_density": 0.5}, {"upload_density": 0.5}]
)
def test_more_arrays_than_devices_accept_are_not_sent(settings, monkeypatch):
    """Devices answered that server and client need the same version."""
    names = [name for name, array in mixed().items() if array.ndim > 1]
    most = len(names) - 1
    monkeypatch.setattr("flasc_flwr.core.codec.carried.MOST_TENSORS", most)
    with pytest.raises(
        ValueError, match=f"^arrays in payloads must be <= {most} .*, got {most + 1};"
    ):
        run_wrapped(**settings)


class TwoRecords(FedAvg):
    """Sends a second record; averages only the first."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        extra = array_record({"m": np.full((8, 8), 2, np.float32)})
        for message in messages:
            message.content["momentum"] = extra
        return messages

    def aggregate_train(self, server_round, replies):
        self.momenta = []
        replies = list(replies)
        for reply in replies:
            self.momenta.append(reply.content.pop("momentum")["m"].numpy())
            self.stats = reply.content.pop("stats")["s"].numpy()
        return super().aggregate_train(server_round, replies)


def test_each_record_has_its_own_parcel():
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        assert sorted(message.content) == ["arrays", "config", "momentum"]
        momentum = message.content["momentum"]["m"].numpy()
        content = RecordDict(
            {
                "arrays": message.content["arrays"],
                "momentum": array_record({"m": momentum + 1}),
                # Corresponds to nothing that was sent.
                "stats": array_record({"s": np.full((3, 3), 9, np.float32)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content, reply_to=message)

    inner = TwoRecords(fraction_evaluate=0)
    _, grid, _ = run_wrapped(
        app, inner, upload_density=1 / 2, values="float32", sparse=["*"]
    )
    assert is_parcel(grid.down[0].content["momentum"], DOWNLOAD)
    assert is_parcel(grid.up[0].content["momentum"], UPLOAD)
    assert not is_parcel(grid.up[0].content["stats"], UPLOAD)
    for momentum in inner.momenta:
        assert np.count_nonzero(momentum == 3) == 32
        assert np.count_nonzero(momentum == 2) == 32
    np.testing.assert_array_equal(inner.stats, np.full((3, 3), 9))


def test_an_app_may_empty_the_record_it_received():
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        # As Flower's ``to_numpy_ndarrays(keep_input=False)`` does to save memory.
        taken = {name: record.pop(name) for name in list(record)}
        content = {
            "arrays": ArrayRecord(taken),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    _, _, result = run_wrapped(app, FedAvg(fraction_evaluate=0))
    for name in ("weight", "double"):
        np.testing.assert_array_equal(result.arrays[name].numpy(), mixed()[name])


class Hoarding(FedAvg):
    """Keeps its messages, and the keys of the replies' records."""

    def configure_train(self, server_round, arrays, config, grid):
        self.messages = super().configure_train(server_round, arrays, config, grid)
        return self.messages

    def aggregate_train(self, server_round, replies):
        self.keys = {key for reply in replies for key in reply.content}
        return super().aggregate_train(server_round, replies)


def test_the_inner_strategys_messages_are_not_changed():
    inner = Hoarding(fraction_evaluate=0)
    run_wrapped(inner=inner)
    for message in inner.messages:
        assert list(message.content) == ["arrays", "config"]
        assert list(message.content["arrays"]) == list(mixed())
        # The grid notes the id on the copy that travels; the metadata are shared.
        assert message.metadata.message_id


def test_the_inner_strategy_sees_no_control_record():
    inner = Hoarding(fraction_evaluate=0)
    run_wrapped(client_app(lambda arrays, *_: {"other": arrays["weight"]}), inner)
    assert inner.keys == {"arrays", "metrics"}


def test_an_app_may_reply_under_another_key():
    settings = {"upload_density": 1, "download_density": 1 / 2, "values": "bfloat16"}
    _, grid, renamed = run_wrapped(client_app(reply_key="weights"), **settings)
    _, _, expected = run_wrapped(client_app(), **settings)
    assert all(
        is_parcel(m.content["weights"], UPLOAD)
        for m in grid.up
        if "weights" in m.content
    )
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(renamed.arrays[name].numpy(), array.numpy())


def test_an_app_may_reply_in_another_order():
    def reordered(arrays, client, current):
        return dict(reversed(step(arrays, client, current).items()))

    _, _, result = run_wrapped(client_app(reordered))
    _, _, expected = run_wrapped(client_app())
    assert list(result.arrays) == list(mixed())
    for name, array in expected.arrays.items():
        assert array.data == result.arrays[name].data


@pytest.mark.parametrize("key", ["arrayrecord_key", "configrecord_key"])
def test_a_record_with_the_key_of_the_instructions_is_refused(key):
    """It would be replaced: the app would not get it."""
    with pytest.raises(ValueError, match="key of a record must not be 'flasc'"):
        run_wrapped(inner=FedAvg(**{key: "flasc"}))


def test_a_reply_with_a_record_of_that_key_is_refused():
    def train(arrays, client, current):
        metrics = MetricRecord({"num-examples": 1})
        records = {"arrays": array_record(step(arrays, client, current)), "m": metrics}
        if client:
            records["flasc"] = ConfigRecord({"of the app": 1})
        return RecordDict(records)

    inner = NotingFedAvg()
    run_wrapped(client_app(train), inner)
    reasons = dict(inner.outcomes)
    assert not reasons[1]
    assert all("must not be 'flasc'" in reasons[node] for node in (2, 3, 4))


def test_a_matrix_of_indices_stays_what_it_is_without_the_wrapper():
    """Flower's mean of integers is floating point from the second round on."""
    seen = []

    def loading(arrays, client, current):
        seen.append(arrays["index"])
        new = step(arrays, client, current)
        return new | {"index": np.rint(arrays["index"]).astype(np.int64)}

    arrays = mixed() | {"index": np.arange(2400).reshape(40, 60)}
    run_wrapped(client_app(loading), arrays=array_record(arrays), rounds=3, sparse=())
    assert {array.dtype.kind for array in seen} == {"i", "f"}
    for array in seen:
        np.testing.assert_allclose(array, arrays["index"], atol=1e-9)
