"""A numpy app with arrays of every dtype, run with and without SparseTransport."""

import copy
import random

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.core.layout import Layout
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.bundle import unbundled
from flasc_flwr.flower.transport.parcel import BUNDLE
from flasc_flwr.flower.wire import array_record, arrays_of

SPARSE = ("weight", "double", "half")
"""Those of the mixed arrays that the payload holds."""

WHOLE = ("counter", "bias", "mask", "variance")
"""Those that travel whole."""

MASKS = {"error_feedback": "none", "quota": "none"}
"""Settings with which downloads are masked, as FLASC's are."""


def mixed(seed=0):
    """Return arrays of every dtype, in no particular order."""
    rng = np.random.default_rng(seed)
    return {
        "counter": np.array(3, np.int64),
        "weight": rng.standard_normal((20, 12)).astype(np.float32),
        "bias": rng.standard_normal(12).astype(np.float32),
        "double": rng.standard_normal((6, 7)),
        "mask": np.array([True, False, True]),
        "half": rng.standard_normal((5, 3, 2)).astype(np.float16),
        "variance": np.full(12, 7.5, np.float32),
    }


def apart(parcel):
    """Return a parcel whose small arrays travel each by itself: also valid."""
    record = ArrayRecord()
    for key, array in parcel.items():
        if key != BUNDLE:
            record[key] = array
            continue
        for index, (name, beside) in unbundled(array.data).items():
            record[f"{index}/{name}"] = beside
    return record


def flat(arrays):
    """Return the arrays in the payload as one vector."""
    layout = Layout.of({name: mixed()[name] for name in SPARSE})
    return layout.flatten({name: arrays[name] for name in SPARSE})


def floats():
    """Return the floating-point arrays, which every strategy can average."""
    return {name: a for name, a in mixed().items() if a.dtype.kind == "f"}


def step(arrays, client, current):
    """Stand in for training: a seeded step; counters count, the rest is unchanged."""
    rng = np.random.default_rng([client, current])
    moved = {}
    for name, array in arrays.items():
        moved[name] = array
        if array.dtype.kind == "f":
            noise = rng.standard_normal(array.shape)
            moved[name] = np.asarray(array + 0.1 * noise, array.dtype)
        elif array.dtype.kind == "i":
            moved[name] = np.asarray(array + 1)
    return moved


def client_app(train=step, mods=(flasc_mod,), reply_key="arrays", examples=None):
    """Return an app that trains with a function of its arrays, client and round.

    `train` may return a RecordDict instead of arrays, as the content of its reply.
    """
    app = ClientApp(mods=list(mods))

    @app.train()
    def train_fn(message, context):
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        trained = train(arrays_of(message.content["arrays"]), client, current)
        if not isinstance(trained, RecordDict):
            count = examples(client) if examples else 10 * (client + 1)
            metrics = MetricRecord({"num-examples": count, "loss": float(client)})
            trained = RecordDict({reply_key: array_record(trained), "metrics": metrics})
        return Message(trained, reply_to=message)

    @app.evaluate()
    def evaluate_fn(message, context):
        arrays = arrays_of(message.content["arrays"])
        total = float(sum(array.sum() for array in arrays.values()))
        metrics = MetricRecord({"num-examples": 1, "total": total})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class NotingFedAvg(FedAvg):
    """Notes each reply's node and error. Reads replies, so they are not streamed."""

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


def all_replies(kind):
    """Return a subclass that does the same, but is given all replies together."""

    class Subclass(kind):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, list(replies))

    return Subclass


class RecordingGrid(LocalGrid):
    """Keeps all messages as they travelled: `down` to the clients, `up` from them."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.down, self.up = [], []

    def push_messages(self, messages):
        messages = list(messages)
        self.down += map(snapshot, messages)
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        self.up += map(snapshot, replies)
        return replies


def snapshot(message):
    """Return a copy that keeps its records when the message's are replaced."""
    kept = copy.copy(message)
    if message.has_content():
        kept.content = RecordDict(dict(message.content))
    return kept


def run_wrapped(app=None, inner=None, *, arrays=None, nodes=4, rounds=1, **settings):
    """Run a SparseTransport; return it, the grid with all messages, and the result."""
    random.seed(0)
    grid = RecordingGrid(app or client_app(), nodes)
    # By name, as records of so few entries travel whole otherwise.
    record = arrays if isinstance(arrays, ArrayRecord) else array_record(mixed())
    chosen = [name for name, array in record.items() if len(array.shape) > 1]
    transport = SparseTransport(inner or FedAvg(), **({"sparse": chosen} | settings))
    result = transport.start(grid, record, rounds)
    return transport, grid, result


def run_unwrapped(
    train=step, inner=None, *, arrays=None, nodes=4, rounds=1, **app_settings
):
    """Run the same without SparseTransport and flasc_mod; return the result."""
    random.seed(0)
    app = client_app(train, mods=(), **app_settings)
    record = arrays if isinstance(arrays, ArrayRecord) else array_record(mixed())
    return (inner or FedAvg()).start(RecordingGrid(app, nodes), record, rounds)
