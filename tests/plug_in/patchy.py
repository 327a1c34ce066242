"""A grid that loses replies and the state of nodes, under a SparseTransport."""

import numpy as np
from flwr.app import ConfigRecord, Error, Message
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport
from flasc_flwr.core.feedback.grid import on_grid
from flasc_flwr.flower.compat import ErrorCode
from flasc_flwr.flower.feedback.kept_memory import STATE, recalled
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import RecordingGrid, client_app

SHAPES = {"weight": (40, 30), "bias": (30,), "head": (30, 10)}
"""Arrays of an app; the bias travels whole."""

SPARSE = {"upload_density": 1 / 8, "download_density": 1 / 8}


class PatchyGrid(RecordingGrid):
    """Events happen to a node's n-th training message: ``{(node, n): event}``.

    ``message lost``, ``reply lost`` or ``state lost`` (before the message).
    """

    def __init__(self, app, nodes, events=None):
        super().__init__(app, nodes)
        self.events = events or {}
        self.seen = dict.fromkeys(self._contexts, 0)

    def _run_app(self, message):
        node = message.metadata.dst_node_id
        if message.metadata.message_type != "train":
            return super()._run_app(message)
        self.seen[node] += 1
        event = self.events.get((node, self.seen[node]))
        if event == "state lost":
            self._contexts[node].state.clear()
        if event != "message lost":
            reply = super()._run_app(message)
        if event in ("message lost", "reply lost"):
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "lost"), reply_to=message)
        return reply

    def memory(self, node, key="arrays"):
        return recalled(self._contexts[node], key)

    def stored(self, node, key="arrays"):
        return self._contexts[node].state[f"{STATE}/{key}"]


def start_arrays(scale=1.0):
    rng = np.random.default_rng(0)
    return {
        name: (scale * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def drift(arrays, client, current):
    """Stand in for training: a small seeded step."""
    rng = np.random.default_rng([client, current])
    return {
        name: array + 0.02 * rng.standard_normal(array.shape).astype(np.float32)
        for name, array in arrays.items()
    }


class Noting(FedAvg):
    """Notes what it sent and what it was given, node by node."""

    def __init__(self, **settings):
        super().__init__(**({"fraction_evaluate": 0.0} | settings))
        self.sent, self.given, self.failed = [], [], []

    def configure_train(self, server_round, arrays, config, grid):
        self.sent.append({n: a.numpy() for n, a in arrays.items()})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.given.append(
            {
                r.metadata.src_node_id: {
                    n: a.numpy() for n, a in r.content["arrays"].items()
                }
                for r in replies
                if not r.has_error()
            }
        )
        self.failed.append(
            {r.metadata.src_node_id: r.error.reason for r in replies if r.has_error()}
        )
        return super().aggregate_train(server_round, replies)


def run(train=drift, *, nodes=3, rounds=3, events=None, inner=None, **settings):
    """Run a transport; return it, its grid, its inner strategy and the result."""
    grid = PatchyGrid(client_app(train), nodes, events)
    inner = inner or Noting()
    transport = SparseTransport(inner, **(SPARSE | settings))
    result = transport.start(grid, array_record(start_arrays()), rounds)
    return transport, grid, inner, result


def rounded(array):
    return on_grid(np.ravel(array).astype(np.float32), "bfloat16").reshape(array.shape)


def one_round(transport, grid, arrays, current=1):
    """Do one round of a loop by hand; return the arrays after it."""
    messages = transport.configure_train(
        current, arrays, ConfigRecord({"server-round": current}), grid
    )
    return transport.aggregate_train(current, grid.send_and_receive(messages))[0]
