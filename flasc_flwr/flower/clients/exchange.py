"""Sending messages, and taking the replies as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from logging import WARNING

from flwr.app import Error, Message
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import ErrorCode, log, set_metadata

_SHORTEST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_LONGEST_LIFE = 365 * 86400.0
_UNREACHABLE = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)
"""Errors by which the SuperLink reports that a node is away."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    *,
    enough: int | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    surplus: Callable[[Message], None] = lambda reply: None,
    meanwhile: Callable[[], object] = lambda: None,
    away: Callable[[int], object] = lambda node: None,
    silent: Callable[[int, str], object] = lambda node, reason: None,
    came: Callable[[int, Message], object] = lambda node, reply: None,
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
    meanwhile : Callable[[], object]
        Called before each pause.
    away : Callable[[int], object]
        Called with each node that the SuperLink reports as away.
    silent : Callable[[int, str], object]
        Called with each node whose reply was needed and is missing, and the reason.
    came : Callable[[int, Message], object]
        Called with each node and its reply as soon as it is here, before its turn.
    """
    messages = list(messages)
    if not messages:
        return
    began = time.monotonic()
    with waiting():
        sent = push(grid, messages)
    asked = {message.metadata.message_id: message for message in sent}
    _report(messages, asked.keys(), "the message could not be sent", silent)
    missing, early = set(asked), _Early(list(asked))
    while missing and not early.has(enough):
        with waiting():
            arrived = list(grid.pull_messages(list(missing)))
        for reply in _identified(arrived, asked):
            answered = reply.metadata.reply_to_message_id
            missing.discard(answered)
            node = asked[answered].metadata.dst_node_id
            came(node, reply)
            if unreachable(reply):
                away(node)
            if early.has(enough):
                surplus(reply)
            else:
                yield from early.add(reply)
        elapsed = time.monotonic() - began
        if elapsed >= timeout or early.has(enough):
            break
        if missing:
            with waiting():
                meanwhile()
                # Poll short rounds often and long ones rarely.
                pause = max(_SHORTEST_PAUSE, elapsed / 20)
                time.sleep(min(_LONGEST_PAUSE, pause))
    yield from early.rest()
    if not early.has(enough):
        arrived_by_now = asked.keys() - missing
        _report(sent, arrived_by_now, f"no reply within {timeout:g} s", silent)


def push(grid: Grid, messages: Iterable[Message]) -> list[Message]:
    """Send `messages`, and return those that were sent; each has its id then."""
    messages = list(messages)
    if not messages:
        return []
    sent = set(grid.push_messages(messages))
    return [m for m in messages if m.metadata.message_id in sent]


def lifetime(timeout: float) -> float:
    """Return how many seconds a message is valid whose reply is awaited `timeout`.

    Flower keeps an undelivered message for 12 hours by default: a device that comes
    back would train for rounds that are long over. The SuperLink refuses a message
    that expires after the year 9999.
    """
    return min(float(timeout), _LONGEST_LIFE)


def unreachable(reply: Message) -> bool:
    """Return whether the SuperLink replied, because the node is away."""
    return reply.has_error() and reply.error.code in _UNREACHABLE


def _identified(
    replies: Iterable[Message], asked: Mapping[str, Message]
) -> Iterator[Message]:
    """Yield the replies to messages that were sent, by the id of the message.

    One that names another node as its sender becomes an error: the client writes the
    sender into its reply itself. The id of a message is known only to the node that
    got it. An error is of that node, whoever sent it: the SuperLink does for a node
    that is away.
    """
    for reply in replies:
        message = asked.get(reply.metadata.reply_to_message_id)
        if message is None:
            log(WARNING, "Ignored a reply to a message that was not sent")
            continue
        sender, node = reply.metadata.src_node_id, message.metadata.dst_node_id
        if reply.has_error():
            set_metadata(reply, "src_node_id", node)
        if reply.has_error() or sender == node:
            yield reply
            continue
        error = Error(ErrorCode.UNKNOWN, f"the reply names node {sender} as its sender")
        yield Message(error, reply_to=message)


def _report(
    messages: Iterable[Message],
    known: Set[str],
    reason: str,
    silent: Callable[[int, str], object],
) -> None:
    """Report the nodes of the messages whose ids are not known."""
    for message in messages:
        if message.metadata.message_id not in known:
            silent(message.metadata.dst_node_id, reason)


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
