"""What a message held is freed with it, not when Python next collects garbage.

Flower's ``content.array_records`` and the like would keep it until then.
"""

import gc
import weakref

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport
from flasc_flwr.flower.feedback.kept_memory import STATE
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import SPARSE, all_replies, client_app, mixed

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
    """Counts the ArrayRecords of some contents that are still in memory."""

    def __init__(self, *contents):
        self._records = []
        self.add(*contents)

    def add(self, *contents):
        """Watch the records of more contents."""
        for content in contents:
            for record in content.values():
                if isinstance(record, ArrayRecord):
                    self._records.append(weakref.ref(record))

    @property
    def alive(self):
        assert self._records
        return sum(record() is not None for record in self._records)


def in_transport(settings, kind=FedAvg):
    # By name, as records of so few entries travel whole otherwise.
    return SparseTransport(kind(), sparse=SPARSE, **settings)


def contents(messages):
    return [message.content for message in messages]


def configured(transport, grid, current):
    config = ConfigRecord({"server-round": current})
    return transport.configure_train(current, array_record(mixed()), config, grid)


@transports
@pytest.mark.parametrize("kind", [FedAvg, all_replies(FedAvg)], ids=["mean", "all"])
def test_replies_to_training_are_freed_when_they_are_aggregated(settings, kind):
    transport, grid = in_transport(settings, kind), LocalGrid(client_app(), 2)
    replies = list(grid.send_and_receive(configured(transport, grid, 1)))
    watched = Watched(*contents(replies))

    arrays, _ = transport.aggregate_train(1, replies)

    del replies
    assert arrays is not None
    assert watched.alive == 0


@transports
def test_messages_are_freed_when_the_next_round_begins(settings):
    transport, grid = in_transport(settings), LocalGrid(client_app(), 2)
    messages = configured(transport, grid, 1)
    watched = Watched(*contents(messages))
    transport.aggregate_train(1, grid.send_and_receive(messages))

    del messages
    configured(transport, grid, 2)

    assert watched.alive == 0


def test_replies_to_an_evaluation_are_freed():
    transport, grid = in_transport({}), LocalGrid(returning_app(), 2)
    config = ConfigRecord({"server-round": 1})
    messages = transport.configure_evaluate(1, array_record(mixed()), config, grid)
    replies = list(grid.send_and_receive(messages))
    watched = Watched(*contents(replies))

    assert transport.aggregate_evaluate(1, replies)["loss"] == 1

    del replies
    assert watched.alive == 0


def returning_app():
    """Return an app whose evaluation returns the arrays that it was sent."""
    app = client_app()
    app = type(app)(mods=app._mods)

    @app.evaluate()
    def evaluate(message, context):
        metrics = MetricRecord({"num-examples": 1, "loss": 1.0})
        records = {"arrays": message.content["arrays"], "metrics": metrics}
        return Message(RecordDict(records), reply_to=message)

    return app


@transports
def test_a_device_frees_what_it_received_and_sent(settings):
    app, watched = client_app(), Watched()

    def device(message, context):
        watched.add(message.content)
        reply = app(message, context)
        watched.add(message.content, reply.content)
        return reply

    transport, grid = in_transport(settings), LocalGrid(device, 2)
    list(grid.send_and_receive(configured(transport, grid, 1)))

    assert watched.alive == 0


def test_a_device_frees_its_memory_when_it_has_a_newer_one():
    app, watched = client_app(), Watched()

    def device(message, context):
        before = context.state.get(f"{STATE}/arrays")
        if before is not None:
            watched.add({"": before})
        return app(message, context)

    transport, grid = in_transport({}), LocalGrid(device, 2)
    for current in (1, 2):
        messages = configured(transport, grid, current)
        transport.aggregate_train(current, grid.send_and_receive(messages))

    assert watched.alive == 0
