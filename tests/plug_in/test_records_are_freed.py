"""What a message held is freed with it, not when Python next collects garbage.

Flower's ``content.array_records`` and the like would keep it until then.
"""

import gc
import sys
import weakref

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import Flasc, SparseTransport, flasc_mod
from flasc_flwr.flower.feedback.kept_memory import STATE
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.run_memory import RunMemory
from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.plug_in.numpy_app import SPARSE, all_replies, client_app, floats, mixed

TRANSPORTS = {
    "differences": {},
    "whole downloads": {"error_feedback": "up"},
    "masked downloads": {"error_feedback": "none", "download_density": 1 / 4},
    "dense downloads": {"download_density": 1, "values": "float32"},
    "dense uploads": {"upload_density": 1, "values": "float32"},
}
transports = pytest.mark.parametrize("settings", TRANSPORTS.values(), ids=TRANSPORTS)


@pytest.fixture(autouse=True)
def no_garbage_collection():
    gc.disable()
    yield
    gc.enable()


class Watched:
    """Counts what is still in memory: contents of messages, ArrayRecords."""

    def __init__(self, *things):
        self._refs = []
        self.add(*things)

    def add(self, *things):
        """Watch more contents or ArrayRecords."""
        self._refs += map(weakref.ref, things)

    @property
    def alive(self):
        assert self._refs
        return sum(ref() is not None for ref in self._refs)


def arrays_in(*messages):
    """Return the ArrayRecords of some messages."""
    records = [record for message in messages for record in message.content.values()]
    return [record for record in records if isinstance(record, ArrayRecord)]


def references(payloads):
    """Return how often each payload is referred to."""
    return [sys.getrefcount(payload) for payload in payloads]


class Careful(FedAvg):
    """A user's strategy that adds up arrays, and reads no property of a content."""

    def aggregate_train(self, server_round, replies):
        total = sum(reply.content["arrays"]["weight"].numpy() for reply in replies)
        return array_record({"weight": total}), None


def in_transport(settings, kind=FedAvg):
    # By name, as records of so few entries travel whole otherwise.
    return SparseTransport(kind(), sparse=SPARSE, **settings)


def configured(transport, grid, current):
    config = ConfigRecord({"server-round": current})
    return transport.configure_train(current, array_record(mixed()), config, grid)


@transports
@pytest.mark.parametrize("kind", [FedAvg, all_replies(FedAvg)], ids=["mean", "all"])
def test_replies_to_training_are_freed_when_they_are_aggregated(settings, kind):
    transport, grid = in_transport(settings, kind), LocalGrid(client_app(), 2)
    replies = list(grid.send_and_receive(configured(transport, grid, 1)))
    watched = Watched(*arrays_in(*replies))

    arrays, _ = transport.aggregate_train(1, replies)

    del replies
    assert arrays is not None
    assert watched.alive == 0


@pytest.mark.parametrize("error_feedback", ["both", "up", "none"])
def test_payloads_are_freed_one_by_one_as_they_are_averaged(
    error_feedback, monkeypatch
):
    settings = {"error_feedback": error_feedback}
    transport, grid = in_transport(settings), LocalGrid(client_app(), 3)
    replies = list(grid.send_and_receive(configured(transport, grid, 1)))
    payloads = [reply.content["arrays"][PAYLOAD].data for reply in replies]
    counts = []
    confirm = RunMemory.confirm

    def spy(memory):
        counts.extend(references(payloads))
        confirm(memory)

    monkeypatch.setattr(RunMemory, "confirm", spy)
    transport.aggregate_train(1, replies)

    assert counts == references([bytes(9), bytes(9), bytes(9)])


@transports
def test_replies_are_freed_when_a_strategy_is_done_with_them(settings):
    transport, grid = in_transport(settings, Careful), LocalGrid(client_app(), 2)
    replies = list(grid.send_and_receive(configured(transport, grid, 1)))
    watched = Watched(*(reply.content for reply in replies))

    transport.aggregate_train(1, replies)

    del replies
    assert watched.alive == 0


@transports
def test_messages_are_freed_when_the_next_round_begins(settings):
    transport, grid = in_transport(settings), LocalGrid(client_app(), 2)
    messages = configured(transport, grid, 1)
    watched = Watched(*arrays_in(*messages))
    transport.aggregate_train(1, grid.send_and_receive(messages))

    del messages
    configured(transport, grid, 2)

    assert watched.alive == 0


def echo(message, context):
    """Evaluate: return the arrays as they were sent."""
    metrics = MetricRecord({"num-examples": 1, "loss": 1.0})
    records = {"arrays": message.content["arrays"], "metrics": metrics}
    return Message(RecordDict(records), reply_to=message)


def watching(app, watched):
    """Return a device that watches what is received by an app, and what it sends."""

    def device(message, context):
        watched.add(*arrays_in(message))
        reply = app(message, context)
        watched.add(reply.content, *arrays_in(message, reply))
        return reply

    return device


def test_arrays_of_an_evaluation_are_freed():
    app, watched = ClientApp(mods=[flasc_mod]), Watched()
    app.evaluate()(echo)
    transport, grid = in_transport({}), LocalGrid(watching(app, watched), 2)
    config = ConfigRecord({"server-round": 1})
    messages = transport.configure_evaluate(1, array_record(mixed()), config, grid)
    replies = list(grid.send_and_receive(messages))

    assert watched.alive == 0
    watched.add(*arrays_in(*replies))

    assert transport.aggregate_evaluate(1, replies)["loss"] == 1

    del replies
    assert watched.alive == 0


@transports
def test_a_device_frees_what_it_received_and_sent(settings):
    watched = Watched()
    transport = in_transport(settings)
    grid = LocalGrid(watching(client_app(), watched), 2)

    list(grid.send_and_receive(configured(transport, grid, 1)))

    assert watched.alive == 0


def test_a_device_of_flasc_frees_what_it_received_and_sent():
    watched = Watched()
    strategy = Flasc(fraction_train=1.0, fraction_evaluate=0.0)
    grid = LocalGrid(watching(client_app(), watched), 2)

    strategy.start(grid, array_record(floats()), num_rounds=1)

    assert strategy.state.history[-1]["replies"] == 2
    assert watched.alive == 0


def test_a_device_frees_its_memory_when_it_has_a_newer_one():
    app, watched = client_app(), Watched()

    def device(message, context):
        if memory := context.state.get(f"{STATE}/arrays"):
            watched.add(memory)
        return app(message, context)

    transport, grid = in_transport({}), LocalGrid(device, 2)
    for current in (1, 2):
        messages = configured(transport, grid, current)
        transport.aggregate_train(current, grid.send_and_receive(messages))

    assert watched.alive == 0
