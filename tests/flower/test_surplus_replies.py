"""Replies that arrive beside the last one needed: counted, and not aggregated."""

from flwr.app import Message, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import RecordingGrid, adapter, client_app
from tests.flower.device import content


def test_replies_pulled_beside_the_last_needed_one_are_counted_and_not_aggregated():
    grid = RecordingGrid(client_app(), 6)
    strategy = Flasc(fraction_train=0.5, oversample=2.0)
    strategy.start(grid, array_record(adapter()), 2)
    for row in strategy.state.history[1:]:
        assert row["replies"] == 3
    sent = [e for e in strategy.state.traffic.sent if e.direction == "up" and e.round]
    assert len(sent) == len([m for m in grid.up if "arrays" in m.content]) == 12


def test_what_is_enough_is_not_exceeded_by_what_comes_along():
    surplus = []
    app = client_app(lambda arrays, *_: arrays)
    grid = LocalGrid(app, 4)
    messages = [Message(RecordDict(content()), node, "train") for node in range(1, 5)]
    taken = list(exchange(grid, messages, 5, enough=2, surplus=surplus.append))
    nodes = [reply.metadata.src_node_id for reply in [*taken, *surplus]]
    assert (len(taken), sorted(nodes)) == (2, [1, 2, 3, 4])
