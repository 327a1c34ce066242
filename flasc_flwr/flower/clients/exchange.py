"""Sending messages, and taking the replies as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from logging import WARNING

from flwr.app import Message
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import log

_SHORTEST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    *,
    enough: int | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    surplus: Callable[[Message], None] = lambda reply: None,
) -> Iterator[Message]:
    """Send `messages`, and yield each reply as soon as its turn has come.

    Replies are yielded in the order of `messages`, whatever order they arrive in, so
    that sums over a cohort are equal bit for bit in every run. A reply that is early
    stays encoded until its turn. One that has not arrived `timeout` seconds after
    sending is left out.

    Parameters
    ----------
    grid : Grid
        Where to send.
    messages : Iterable[Message]
        At most one for each node.
    timeout : float
        Seconds to wait for replies.
    enough : int, optional
        Stop after so many replies without an error; by default wait for all.
    waiting : Callable[[], AbstractContextManager[None]]
        Entered while this waits for the clients, to measure the time.
    surplus : Callable[[Message], None]
        Called with replies that came together with the last one that was needed: they
        are not yielded, but their bytes have travelled.
    """
    messages = list(messages)
    if not messages:
        return
    began = time.monotonic()
    with waiting():
        pushed = set(grid.push_messages(messages))
    turns = [m.metadata.message_id for m in messages if m.metadata.message_id in pushed]
    if len(turns) < len(messages):
        log(WARNING, "%d messages could not be sent", len(messages) - len(turns))
    missing, early = set(turns), _Early(turns)
    while missing and not early.has(enough):
        with waiting():
            arrived = list(grid.pull_messages(list(missing)))
        for reply in arrived:
            missing.discard(reply.metadata.reply_to_message_id)
            if early.has(enough):
                surplus(reply)
            else:
                yield from early.add(reply)
        elapsed = time.monotonic() - began
        if elapsed >= timeout:
            break
        if missing and not early.has(enough):
            with waiting():
                # Poll short rounds often and long ones rarely.
                pause = max(_SHORTEST_PAUSE, elapsed / 20)
                time.sleep(min(_LONGEST_PAUSE, pause))
    yield from early.rest()
    if missing and not early.has(enough):
        log(WARNING, "%d replies missing after %.0f s", len(missing), timeout)


class _Early:
    """Replies that wait for their turn."""

    def __init__(self, turns: list[str]) -> None:
        self._turns = list(turns)
        self._waiting: dict[str, Message] = {}
        self._good = 0

    def has(self, enough: int | None) -> bool:
        """Return whether `enough` replies without an error have arrived."""
        return enough is not None and self._good >= enough

    def add(self, reply: Message) -> Iterator[Message]:
        """Take in a reply, and yield those whose turn has come."""
        turn = reply.metadata.reply_to_message_id
        if turn in self._waiting or turn not in self._turns:
            yield reply  # a second reply: the reader rejects it with the reason
            return
        self._waiting[turn] = reply
        self._good += not reply.has_error()
        while self._turns and self._turns[0] in self._waiting:
            yield self._waiting.pop(self._turns.pop(0))

    def rest(self) -> Iterator[Message]:
        """Yield what is still waiting, in order."""
        yield from (self._waiting[t] for t in self._turns if t in self._waiting)
