"""Replies beside the last one needed are counted; those that are missing are named."""

from flwr.app import Message, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.clients.guard import Guard
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


def test_a_round_names_who_was_asked_and_did_not_reply_in_time():
    class Silent(RecordingGrid):
        """Node 2 answers only who asks for its name."""

        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            return [
                reply
                for reply in replies
                if reply.metadata.src_node_id != 2
                or "arrays" not in reply.content.array_records
            ]

    strategy = Flasc(min_train_nodes=3)
    strategy.start(Silent(client_app(), 3), array_record(adapter()), 2, timeout=0.5)
    for row in strategy.state.history[1:]:
        assert row["replies"] == 2
        (failure,) = row["failures"]
        assert (failure["client"], failure["reason"]) == ("1", "no reply within 0.5 s")


def test_a_round_waits_for_the_fewest_replies_that_it_needs():
    """Also where `oversample` would be content with less."""
    strategy = Flasc(fraction_train=0.5, oversample=2.0, guard=Guard(min_replies=4))
    strategy.start(RecordingGrid(client_app(), 6), array_record(adapter()), 2)
    for row in strategy.state.history[1:]:
        assert (row["replies"], row["skipped"]) == (4, False)


def test_a_reply_that_is_rejected_does_not_take_the_place_of_another():
    """Otherwise one device that is quick and wrong would skip every round."""

    class Liar(RecordingGrid):
        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            for reply in replies:
                if reply.metadata.src_node_id == 4 and "metrics" in reply.content:
                    reply.content["metrics"]["num-examples"] = -1
            return replies[::-1]

    strategy = Flasc(fraction_train=0.5, oversample=2.0, guard=Guard(min_replies=3))
    strategy.start(Liar(client_app(), 6), array_record(adapter()), 3)
    for row in strategy.state.history[1:]:
        assert (row["replies"], row["skipped"]) == (3, False)
        assert all(failure["client"] == "3" for failure in row["failures"])
