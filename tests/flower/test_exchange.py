import time
from functools import partial

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict

from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.compat import ErrorCode, set_metadata
from flasc_flwr.flower.local_grid import LocalGrid


def echo(message, context):
    return Message(message.content, reply_to=message)


class SlowGrid(LocalGrid):
    """Hands out replies one at a time, in the order of `arrival`."""

    def __init__(self, arrival, count):
        super().__init__(echo, count)
        self._arrival = list(arrival)
        self.pulls = 0

    def pull_messages(self, message_ids):
        self.pulls += 1
        if not self._arrival:
            return []
        node = self._arrival.pop(0)
        for message_id in message_ids:
            if self._replies[message_id].metadata.src_node_id == node:
                return super().pull_messages([message_id])
        return []


def messages(count):
    content = RecordDict({"c": ConfigRecord({"a": 1})})
    return [Message(content, node, "train") for node in range(1, count + 1)]


def nodes(replies):
    return [reply.metadata.src_node_id for reply in replies]


def test_replies_come_in_the_order_of_the_messages_whatever_their_arrival():
    order = np.random.default_rng(0).permutation(range(1, 8)).tolist()
    grid = SlowGrid(order, 7)
    assert nodes(exchange(grid, messages(7), timeout=30)) == list(range(1, 8))


def test_a_reply_is_yielded_before_the_next_has_arrived():
    grid = SlowGrid([1, 2], 2)
    replies = exchange(grid, messages(2), timeout=30)
    next(replies)
    assert grid.pulls == 1
    next(replies)
    assert grid.pulls == 2


def test_missing_replies_are_left_out_after_the_timeout():
    grid = SlowGrid([3, 1], 3)
    assert nodes(exchange(grid, messages(3), timeout=0.3)) == [1, 3]


def test_no_message_needs_no_grid():
    assert list(exchange(None, [], timeout=1)) == []


def test_a_reply_in_the_name_of_another_node_is_an_error_of_its_sender():
    def forge(message, context):
        reply = echo(message, context)
        if message.metadata.dst_node_id == 2:
            set_metadata(reply, "src_node_id", 3)
        return reply

    replies = list(exchange(LocalGrid(forge, 3), messages(3), timeout=30))
    assert nodes(replies) == [1, 2, 3]
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "names node 3 as its sender" in replies[1].error.reason


def test_an_error_in_the_name_of_another_node_is_of_its_sender():
    """Otherwise the other node would be listed among the round's failures."""

    def forge(message, context):
        if message.metadata.dst_node_id != 2:
            return echo(message, context)
        reply = Message(Error(ErrorCode.UNKNOWN, "broken"), reply_to=message)
        set_metadata(reply, "src_node_id", 3)
        return reply

    replies = list(exchange(LocalGrid(forge, 3), messages(3), timeout=30))
    assert nodes(replies) == [1, 2, 3]
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.reason == "broken"


def test_a_reply_to_another_message_is_ignored():
    class Stray(LocalGrid):
        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            if replies:
                other = Message(replies[0].content, reply_to=messages(1)[0])
                replies.insert(0, other)
            return replies

    assert nodes(exchange(Stray(echo, 3), messages(3), timeout=30)) == [1, 2, 3]


def test_a_node_that_is_away_is_reported():
    def away(message, context):
        if message.metadata.dst_node_id == 2:
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="away")
            return Message(error, reply_to=message)
        return echo(message, context)

    missed, paused = [], []
    grid = LocalGrid(away, 3)
    replies = exchange(
        grid, messages(3), 30, away=missed.append, meanwhile=lambda: paused.append(1)
    )
    assert len(list(replies)) == 3
    assert missed == [2]
    assert paused == []


def test_something_else_is_done_while_replies_are_missing():
    grid = SlowGrid([2, 1], 2)
    paused = []
    meanwhile = partial(paused.append, 1)
    assert len(list(exchange(grid, messages(2), 30, meanwhile=meanwhile))) == 2
    assert paused == [1]


def test_who_did_not_reply_in_time_is_reported_with_the_reason():
    silent = {}
    replies = exchange(SlowGrid([3, 1], 3), messages(3), 0.3, silent=silent.__setitem__)
    assert nodes(replies) == [1, 3]
    assert silent == {2: "no reply within 0.3 s"}


def test_who_could_not_be_sent_a_message_is_reported_with_the_reason():
    class Full(LocalGrid):
        def push_messages(self, messages):
            return super().push_messages(list(messages)[:1])

    silent = {}
    replies = exchange(Full(echo, 3), messages(3), 30, silent=silent.__setitem__)
    assert nodes(replies) == [1]
    assert silent == dict.fromkeys([2, 3], "the message could not be sent")


def test_replies_that_were_not_needed_are_not_reported_as_missing():
    silent = {}
    replies = exchange(
        SlowGrid([2], 3), messages(3), 30, enough=1, silent=silent.__setitem__
    )
    assert nodes(replies) == [2]
    assert silent == {}


def test_replies_that_cannot_be_used_are_not_enough():
    """Two are enough, and node 4's cannot be used: node 2's is, which came with it."""

    class All(SlowGrid):
        def pull_messages(self, message_ids):
            replies = {
                reply.metadata.src_node_id: reply
                for reply in LocalGrid.pull_messages(self, message_ids)
            }
            return [replies[node] for node in self._arrival]

    used, surplus = [], []
    replies = exchange(
        All([4, 3, 2, 1], 4),
        messages(4),
        30,
        enough=2,
        surplus=surplus.append,
        unusable=lambda: used.count(4),
    )
    for reply in replies:
        used.append(reply.metadata.src_node_id)
    assert (used, nodes(surplus)) == ([3, 4, 2], [1])


def test_a_reply_that_comes_while_others_are_read_is_taken():
    replies = exchange(SlowGrid([1, 2], 2), messages(2), timeout=0.3)
    taken = [next(replies)]
    time.sleep(0.4)  # to decode it takes longer than the round may
    assert nodes([*taken, *replies]) == [1, 2]
