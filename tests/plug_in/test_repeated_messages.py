"""A node that is sent several messages before its replies are in: each counts once."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.wire import array_record, arrays_of
from tests.plug_in.numpy_app import client_app
from tests.plug_in.patchy import SPARSE, Noting, PatchyGrid, drift, start_arrays


class Asynchronous(Noting):
    """Asks a node again before its reply has been pulled."""

    def start(self, grid, initial_arrays, num_rounds=3, **_):
        ids = []
        for current in range(1, num_rounds + 1):
            config = ConfigRecord({"server-round": current})
            content = RecordDict({"arrays": initial_arrays, "config": config})
            messages = [
                grid.create_message(content, "train", node, "")
                for node in grid.get_node_ids()
            ]
            ids.append(list(grid.push_messages(messages)))
        self.replies = [list(grid.pull_messages(each)) for each in ids]
        return None


def test_what_is_asked_again_too_early_is_counted_once():
    """A node whose reply may still be taken adds nothing of it to the next one."""
    trained = []

    def noting(arrays, client, current):
        new = drift(arrays, client, current)
        trained.append((client, current, new["weight"] - arrays["weight"]))
        return new

    inner = Asynchronous()
    grid = PatchyGrid(client_app(noting), 2)
    transport = SparseTransport(inner, **SPARSE)
    transport.start(grid, array_record(start_arrays()), 3)
    first, second, _ = inner.replies
    assert not any(reply.has_error() for reply in first + second)
    start = start_arrays()["weight"]
    for reply in second:
        step = reply.content["arrays"]["weight"].numpy() - start
        (own,) = [
            s for c, r, s in trained if c + 1 == reply.metadata.src_node_id and r == 2
        ]
        moved = step != 0
        np.testing.assert_allclose(step[moved], own[moved], atol=0.02)


class Twice(FedAvg):
    """Trains two clients at each node, or two models, each with its own message."""

    keys = ("arrays", "arrays")

    def configure_train(self, server_round, arrays, config, grid):
        config["server-round"] = server_round
        contents = [RecordDict({k: arrays, "config": config}) for k in self.keys]
        return [
            message
            for content in contents
            for message in self._construct_messages(
                content, sorted(grid.get_node_ids()), MessageType.TRAIN
            )
        ]

    def aggregate_train(self, server_round, replies):
        self.replies = list(replies)
        return None, None


class Models(Twice):
    keys = ("one", "other")


def moving_app(trained):
    """Return an app that moves what it is sent, and counts from where by how much."""
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message, context):
        ((key, record),) = message.content.array_records.items()
        current = message.content["config"]["server-round"]
        client = context.node_id + 10 * len(trained)
        old = arrays_of(record)
        new = drift(old, client, current)
        place = context.node_id, key
        moved = new["weight"] - old["weight"]
        trained.append((place, moved))
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({key: array_record(new), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


@pytest.mark.parametrize("kind", [Twice, Models])
def test_two_messages_to_a_node_in_a_round_are_counted_once(kind):
    """What was taken in plus what is held is what was trained, or less: never more.

    Of two messages about one record only the first uses the node's memory.
    """
    trained, inner = [], kind(fraction_evaluate=0)
    grid = PatchyGrid(moving_app(trained), 2)
    transport = SparseTransport(inner, values="float32", **SPARSE)
    arrays, start = array_record(start_arrays()), start_arrays()["weight"]
    taken = {}
    for current in range(1, 5):
        messages = transport.configure_train(current, arrays, ConfigRecord(), grid)
        transport.aggregate_train(current, grid.send_and_receive(messages))
        for reply in inner.replies:
            ((key, record),) = reply.content.array_records.items()
            place = reply.metadata.src_node_id, key
            step = record["weight"].numpy() - start
            taken[place] = [*taken.get(place, []), step]
    for place, steps in taken.items():
        own = [moved for of, moved in trained if of == place]
        held = grid.memory(*place).layout.unflatten(grid.memory(*place).residual)
        if kind is Twice:  # messages alternate: the second of a round has no memory
            steps, own = steps[::2], own[::2]
        total = np.sum(steps, axis=0) + held["weight"]
        np.testing.assert_allclose(total, np.sum(own, axis=0), atol=1e-5)


def test_what_is_asked_again_before_both_replies_are_here_is_counted_once():
    """A reply that was overtaken by one to a later message is still out."""
    trained, inner = [], FedAvg(fraction_evaluate=0)
    grid = PatchyGrid(moving_app(trained), 1)
    transport = SparseTransport(inner, values="float32", **SPARSE)
    link = transport.encoding_grid(grid)
    arrays, start = array_record(start_arrays()), start_arrays()["weight"]

    def push(current):
        config = ConfigRecord({"server-round": current})
        content = RecordDict({"arrays": arrays, "config": config})
        return list(link.push_messages([Message(content, 1, MessageType.TRAIN)]))

    def pull(ids):
        (reply,) = link.pull_messages(ids)
        return reply.content["arrays"]["weight"].numpy() - start

    first, second = push(1), push(2)
    steps = {2: pull(second)}
    third = push(3)
    steps |= {1: pull(first), 3: pull(third), 4: pull(push(4))}
    held = grid.memory(1).layout.unflatten(grid.memory(1).residual)["weight"]
    # Messages 2 and 3 were sent while an earlier reply was out.
    total = steps[1] + steps[4] + held
    own = trained[0][1] + trained[3][1]
    np.testing.assert_allclose(total, own, atol=1e-5)
