import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from flasc_flwr import trainable_entries
from flasc_flwr.core.codec import PayloadError, decode, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.trainable import SUPPORT
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import (
    CONTROL,
    INTRODUCE,
    array_record,
    payload_of,
    payload_record,
)
from tests.flower.apps import adapter, client_app

LAYOUT = Layout.of(adapter())


def vector():
    return np.random.default_rng(5).standard_normal(LAYOUT.size).astype(np.float32)


def ask(app, content, message_type="train", **node_config):
    LocalGrid(app, 1)  # gives messages their process's identity
    message = Message(RecordDict(content), 1, message_type)
    settings = {"partition-id": 0, **node_config}
    context = Context(0, 1, settings, state=RecordDict(), run_config={})
    return app(message, context)


def order(density=0.25, value_format="float32"):
    return Instructions(density=density, value_format=value_format).to_record()


def download(sparse):
    return payload_record(encode(sparse, layout=LAYOUT, carry_layout=True))


def training(sparse, **control):
    return {
        "arrays": download(sparse),
        "config": ConfigRecord({"server-round": 1}),
        CONTROL: order(**control),
    }


def test_the_app_sees_dense_arrays_and_the_update_counts_from_the_masked_download():
    seen = {}

    def trainer(arrays, client, current):
        seen.update(arrays)
        return {name: value + 1 for name, value in arrays.items()}

    sparse = top_k(vector(), 0.3)
    reply = ask(client_app(trainer), training(sparse, density=1.0))
    np.testing.assert_array_equal(LAYOUT.flatten(seen), sparse.densify())
    update = decode(payload_of(reply.content["arrays"]), size=LAYOUT.size)
    np.testing.assert_allclose(update.densify(), 1, rtol=1e-6)


def test_the_upload_is_the_top_k_of_the_update_and_carries_the_fingerprint_only():
    step = vector()
    sparse = top_k(vector(), 1.0)

    def trainer(arrays, client, current):
        moved = LAYOUT.flatten(arrays) + step
        return LAYOUT.unflatten(moved)

    reply = ask(client_app(trainer), training(sparse, density=0.1))
    payload = payload_of(reply.content["arrays"])
    update = decode(payload, LAYOUT.size, fingerprint=LAYOUT.fingerprint)
    moved = (sparse.densify() + step) - sparse.densify()
    np.testing.assert_array_equal(update.densify(), top_k(moved, 0.1).densify())
    with pytest.raises(PayloadError):
        from flasc_flwr.core.codec import read_layout

        read_layout(payload)


def test_the_control_record_is_hidden_from_the_app():
    keys = []

    def mod(message, context, call_next):
        keys.extend(message.content.keys())
        return call_next(message, context)

    from flasc_flwr import flasc_mod

    app = client_app(mods=[flasc_mod, mod])
    ask(app, training(top_k(vector(), 1.0)))
    assert sorted(keys) == ["arrays", "config"]


def test_messages_without_payload_pass_unchanged():
    content = {
        "arrays": array_record(adapter()),
        "config": ConfigRecord({"server-round": 1}),
    }
    plain = ask(client_app(mods=[]), content)
    modded = ask(client_app(), content)
    for name, array in plain.content["arrays"].items():
        np.testing.assert_array_equal(
            array.numpy(), modded.content["arrays"][name].numpy()
        )


def test_evaluation_is_decoded_and_answered_with_metrics():
    sparse = top_k(vector(), 0.5)
    reply = ask(client_app(), {"arrays": download(sparse)}, "evaluate")
    expected = float(sparse.densify().sum())
    assert reply.content["metrics"]["total"] == pytest.approx(expected, rel=1e-5)


def test_a_node_introduces_itself_without_its_app():
    def never(*_):
        raise AssertionError("the app was called")

    reply = ask(
        client_app(never),
        {CONTROL: ConfigRecord({INTRODUCE: True})},
        **{"download-density": 0.5, "lora-rank": 4, "data-path": "/here"},
    )
    assert dict(reply.content[CONTROL]) == {
        "name": "0",
        "download-density": 0.5,
        "lora-rank": 4,
    }


def test_arrays_that_do_not_fit_are_refused_by_name():
    def forgetful(arrays, client, current):
        return {name: v for name, v in arrays.items() if "classifier" not in name}

    with pytest.raises(ValueError, match=r"missing \['classifier.weight'\]"):
        ask(client_app(forgetful), training(top_k(vector(), 1.0)))


def test_an_update_with_nan_is_refused():
    def diverged(arrays, client, current):
        return {name: value * np.float32("nan") for name, value in arrays.items()}

    with pytest.raises(
        ValueError, match="^array 'layer.lora_A.weight' must hold finite numbers$"
    ):
        ask(client_app(diverged), training(top_k(vector(), 1.0)))


def test_a_defect_download_is_refused():
    payload = bytearray(encode(top_k(vector(), 0.5), layout=LAYOUT, carry_layout=True))
    payload[-1] ^= 1
    content = {"arrays": payload_record(bytes(payload)), CONTROL: order()}
    with pytest.raises(PayloadError):
        ask(client_app(), content)


def test_instructions_of_another_version_are_refused():
    content = training(top_k(vector(), 1.0))
    content[CONTROL] = ConfigRecord({"density": 0.5})
    with pytest.raises(ValueError, match="same version of flasc-flwr"):
        ask(client_app(), content)


def test_a_frozen_update_stays_on_the_support_and_the_app_is_told():
    sparse = top_k(vector(), 0.3)
    masks = []

    def trainer(arrays, client, current):
        masks.append(trainable_entries())
        return {name: value + 1 for name, value in arrays.items()}

    order = Instructions(density=1.0, value_format="float32", trainable=SUPPORT)
    content = training(sparse) | {CONTROL: order.to_record()}
    reply = ask(client_app(trainer), content)
    update = decode(payload_of(reply.content["arrays"]), size=LAYOUT.size)
    np.testing.assert_array_equal(update.positions, sparse.positions)
    flat = np.concatenate([masks[0][t.name].ravel() for t in LAYOUT.tensors])
    np.testing.assert_array_equal(np.flatnonzero(flat), sparse.positions)
    assert trainable_entries() is None


def test_without_freezing_all_entries_are_trainable():
    masks = []

    def trainer(arrays, client, current):
        masks.append(trainable_entries())
        return arrays

    ask(client_app(trainer), training(top_k(vector(), 0.3)))
    assert masks == [None]
