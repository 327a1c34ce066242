"""One message through flasc_mod, as on a device; and payloads made to do harm."""

import json
import zlib

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict

from flasc_flwr.core.codec import encode
from flasc_flwr.core.codec.bits import varint
from flasc_flwr.core.codec.header import Header, seal
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.printable import printable
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.device_limits import RefusedDownloadError
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import CONTROL, payload_record
from tests.flower.apps import adapter, client_app

LAYOUT = Layout.of(adapter())
N = LAYOUT.size
TENSORS = len(LAYOUT.tensors)


def vector(size=N, seed=5):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def download(density=1.0, layout=LAYOUT):
    sparse = top_k(vector(layout.size), density)
    return payload_record(encode(sparse, layout=layout, carry_layout=True))


def order(**given):
    return Instructions(**{"density": 0.25, **given}).to_record()


def content(arrays=None, control=None, **records):
    return {
        "arrays": download() if arrays is None else arrays,
        "config": ConfigRecord({"server-round": 1}),
        CONTROL: order() if control is None else control,
        **records,
    }


def ask(message_content, app=None, kind="train", **node_config):
    """Run one message through the mod, as on a device with this --node-config."""
    LocalGrid(app or client_app(), 1)  # gives messages their process's identity
    message = Message(RecordDict(message_content), 1, kind)
    given = {"partition-id": 0, **node_config}
    context = Context(0, 1, given, state=RecordDict(), run_config={})
    return (app or client_app(never if app is None else None))(message, context)


def never(*_):
    raise AssertionError("the app was called")


def trains(message_content, **node_config):
    """Return whether a device trains on a message, or refuses it before the app."""
    called = []

    def trainer(arrays, client, current):
        called.append(arrays)
        return arrays

    try:
        ask(message_content, client_app(trainer), **node_config)
    except RefusedDownloadError as error:
        assert not called
        assert str(error) == printable(error)
        return str(error)
    return bool(called)


def huge_payload(shape, name="w"):
    """Return a few bytes that ask for an array of any shape."""
    layout = Layout.from_json(json.dumps([[name, list(shape), "float32", "other"]]))
    text = zlib.compress(layout.to_json().encode())
    rows = b""
    left = layout.size
    while left > 0 and len(rows) < 40_000:
        length = min(left, (1 << 20) - 1)
        rows += bytes([0]) + varint(length)
        left -= length
    # Its values have no low bits, and a base of 0.
    return seal(Header(0, layout.size, layout.fingerprint, text), rows + bytes(2))
