"""Introductions: nodes are asked for their name and budget, without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from logging import WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flasc_flwr.flower.clients.exchange import lifetime, push
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import CONTROL, INTRODUCE

_FIRST_PAUSE_AFTER_SILENCE = 30.0
_FIRST_PAUSE_AFTER_ERROR = 1.0
_LONGEST_PAUSE = 600.0


@dataclass
class _Asked:
    """How a node was asked so far.

    Attributes
    ----------
    times : int
        How often.
    again : float
        When it is asked again, on the clock.
    error : str
        Why the last question failed; empty while it is open.
    """

    times: int = 0
    again: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class _Question:
    """A question whose answer may still come.

    Attributes
    ----------
    node : int
        Whom it was sent to.
    expires : float
        When it is no longer valid, on the clock.
    """

    node: int
    expires: float


class Introductions:
    """Asks nodes for their name and budget, and collects the answers.

    Nothing here waits. A node that does not answer is asked again after 30, 60, 120,
    ... seconds; one that is unreachable after 1, 2, 4, ...; at most 10 minutes.

    Parameters
    ----------
    timeout : float
        Seconds to wait for the replies of a round: a question is valid for as long,
        at least for 10 minutes, so that an answer that comes while a round runs is
        still there when it is over.
    clock : Callable[[], float]
        Seconds, from any start.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._life = lifetime(max(timeout, _LONGEST_PAUSE))
        self._clock = clock
        self._asked: dict[int, _Asked] = {}
        self._open: dict[str, _Question] = {}

    def ask(self, grid: Grid, ledger: Ledger, names: Mapping[int, str]) -> None:
        """Ask those of the nodes whose pause is over.

        Parameters
        ----------
        grid : Grid
            Reaches the nodes.
        ledger : Ledger
            Counts what is sent.
        names : Mapping[int, str]
            Whom to ask, and the name under which each is counted.
        """
        now = self._clock()
        due = [n for n in names if n not in self._asked or now >= self._asked[n].again]
        content = RecordDict({CONTROL: ConfigRecord({INTRODUCE: True})})
        questions = [
            Message(content, node, MessageType.TRAIN, ttl=self._life) for node in due
        ]
        ledger.sent(questions, [names[node] for node in due])
        for node in due:
            self._silent(node, now)
        sent = {q.metadata.message_id for q in push(grid, questions)}
        for question, node in zip(questions, due, strict=True):
            message_id = question.metadata.message_id
            if message_id in sent:
                self._open[message_id] = _Question(node, now + self._life)
            else:
                self.failed(node, "unreachable (the question could not be sent)")

    def answers(self, grid: Grid) -> list[tuple[int, Message]]:
        """Return the answers that have arrived, each with the node that was asked.

        A reply names its own sender. It also names the question, and that id is known
        only to the node that was asked: the question says whose answer it is.
        """
        now = self._clock()
        self._open = {i: q for i, q in self._open.items() if now < q.expires}
        if not self._open:
            return []
        replies = grid.pull_messages(list(self._open))
        answers = []
        for reply in replies:
            question = self._open.pop(reply.metadata.reply_to_message_id, None)
            if question:
                answers.append((question.node, reply))
        return answers

    def failed(self, node: int, reason: str) -> None:
        """Note that a question failed; the node is asked again later."""
        asked = self._asked.setdefault(node, _Asked(times=1))
        pause = _pause(_FIRST_PAUSE_AFTER_ERROR, asked.times)
        asked.again, asked.error = self._clock() + pause, reason
        log(WARNING, "Node %d is %s; will retry in %.0f s", node, reason, pause)

    def close(self, node: int) -> None:
        """Forget what a node was asked: it has answered, or is asked again."""
        self._asked.pop(node, None)
        self._open = {i: q for i, q in self._open.items() if q.node != node}

    def awaited(self, nodes: Iterable[int]) -> bool:
        """Return whether the answer of one of the nodes may still come."""
        asked = (self._asked.get(node) for node in nodes)
        return any(one and not one.error for one in asked)

    def reason(self, node: int) -> str:
        """Return why a node has not introduced itself."""
        asked = self._asked.get(node, _Asked())
        return asked.error or f"no answer to its introduction (asked: {asked.times})"

    def _silent(self, node: int, now: float) -> None:
        asked = self._asked.setdefault(node, _Asked())
        if asked.times and not asked.error:
            log(WARNING, "Node %d does not answer its introduction; asked again", node)
        asked.times += 1
        asked.again = now + _pause(_FIRST_PAUSE_AFTER_SILENCE, asked.times)
        asked.error = ""


def _pause(first: float, times: int) -> float:
    return min(_LONGEST_PAUSE, first * 2.0 ** min(times - 1, 20))
