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
    unusable: Callable[[], int] = lambda: 0,
) -> Iterator[Message]:
    """Send `messages`, and yield each reply as soon as its turn has come.

    Replies are yielded in the order of `messages`, whatever order they arrive in, so
    that sums over a cohort are equal bit for bit in every run. A reply that is early
    stays encoded until its turn. One that has not arrived `timeout` seconds after
    sending is left out. With `enough`, those that have arrived are yielded once there
    are as many; if some of them cannot be used, others follow, out of order.

    Parameters
    ----------
    grid : Grid
        Where to send.
    messages : Iterable[Message]
        At most one for each node.
    timeout : float
        Seconds to wait for replies.
    enough : int, optional
        Stop after so many replies that have no error and can be used; by default wait
        for all.
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
    unusable : Callable[[], int]
        Returns how many of the replies without an error that were yielded could not be
        used.
    """
    messages = list(messages)
    if not messages:
        return
    began = time.monotonic()
    with waiting():
        sent = push(grid, messages)
    asked = {message.metadata.message_id: message for message in sent}
    _report(messages, asked.keys(), "the message could not be sent", silent)
    missing, early = set(asked), _Early(list(asked), enough, unusable)
    late = False
    while missing and not late and not early.are_enough:
        # Whoever takes the replies may need long: what has come by then is in time.
        late = time.monotonic() - began >= timeout
        with waiting():
            arrived = list(grid.pull_messages(list(missing)))
        replies = list(_identified(arrived, asked))
        del arrived
        for reply in replies:
            answered = reply.metadata.reply_to_message_id
            missing.discard(answered)
            node = asked[answered].metadata.dst_node_id
            came(node, reply)
            if unreachable(reply):
                away(node)
        while replies and not early.are_enough:
            yield from early.add(replies.pop(0))
            if early.are_enough:
                yield from early.rest()
        for reply in replies:
            surplus(reply)
        if missing and not late and not early.are_enough:
            with waiting():
                meanwhile()
                # Poll short rounds often and long ones rarely.
                elapsed = time.monotonic() - began
                pause = max(_SHORTEST_PAUSE, elapsed / 20)
                time.sleep(min(_LONGEST_PAUSE, pause))
    yield from early.rest()
    if not early.are_enough:
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
    """Replies that wait for their turn.

    Parameters
    ----------
    turns : list[str]
        Ids of the messages that are answered, in order.
    enough : int or None
        How many replies are enough; None for all.
    unusable : Callable[[], int]
        How many of those that were yielded do not count.
    """

    def __init__(
        self, turns: list[str], enough: int | None, unusable: Callable[[], int]
    ) -> None:
        self._turns = turns
        self._enough = enough
        self._unusable = unusable
        self._waiting: dict[str, Message] = {}
        self._good = 0

    @property
    def are_enough(self) -> bool:
        """Whether as many replies have arrived as are enough."""
        enough = self._enough
        return enough is not None and self._good - self._unusable() >= enough

    def add(self, reply: Message) -> Iterator[Message]:
        """Take in a reply, and yield those whose turn has come."""
        turn = reply.metadata.reply_to_message_id
        self._good += not reply.has_error()
        if turn in self._waiting or turn not in self._turns:
            yield reply  # a second reply: the reader rejects it with the reason
            return
        self._waiting[turn] = reply
        while self._turns and self._turns[0] in self._waiting:
            yield self._waiting.pop(self._turns.pop(0))

    def rest(self) -> Iterator[Message]:
        """Yield what is still waiting, in order."""
        for turn in [turn for turn in self._turns if turn in self._waiting]:
            self._turns.remove(turn)
            yield self._waiting.pop(turn)
