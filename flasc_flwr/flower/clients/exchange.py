"""Sending a round's messages and taking the replies as they arrive."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from logging import WARNING

from flwr.app import Message
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import log

_SHORTEST_WAIT = 0.05
_LONGEST_WAIT = 1.0


def exchange(
    grid: Grid, messages: Iterable[Message], timeout: float, enough: int | None = None
) -> Iterator[Message]:
    """Send `messages` and yield each reply as soon as its turn has come.

    Replies are yielded in the order of `messages`, whatever order they arrive in,
    so that sums over a cohort come out the same bit for bit in every run. A reply
    that is early waits as it came, encoded; one that is not there `timeout`
    seconds after sending is left out.

    Parameters
    ----------
    grid : Grid
        Where to send.
    messages : Iterable[Message]
        At most one for each node.
    timeout : float
        Seconds to wait for replies.
    enough : int, optional
        Wait for no more than so many replies that are no errors; by default for all.
        What comes later is never asked for.
    """
    messages = list(messages)
    if not messages:
        return
    pushed = set(grid.push_messages(messages))
    turns = [m.metadata.message_id for m in messages if m.metadata.message_id in pushed]
    if len(turns) < len(messages):
        log(WARNING, "%d messages could not be sent", len(messages) - len(turns))
    early: dict[str, Message] = {}
    missing, good = len(turns), 0
    for reply in _arrivals(grid, set(turns), timeout):
        turn = reply.metadata.reply_to_message_id
        if turn in early or turn not in turns:
            yield reply  # a second one: whoever reads it refuses it, and says so
            continue
        early[turn] = reply
        missing -= 1
        good += not reply.has_error()
        while turns and turns[0] in early:
            yield early.pop(turns.pop(0))
        if enough is not None and good >= enough:
            break
    yield from (early[turn] for turn in turns if turn in early)
    if missing and (enough is None or good < enough):
        log(WARNING, "%d replies missing after %.0f s", missing, timeout)


def _arrivals(grid: Grid, waiting: set[str], timeout: float) -> Iterator[Message]:
    """Yield the replies to the messages `waiting`, in the order they arrive."""
    began = time.monotonic()
    asked = frozenset(waiting)
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            if reply.metadata.reply_to_message_id in asked:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
        elapsed = time.monotonic() - began
        if elapsed >= timeout:
            return
        if waiting:
            # Short rounds are polled often, long ones seldom.
            time.sleep(min(_LONGEST_WAIT, max(_SHORTEST_WAIT, elapsed / 20)))
