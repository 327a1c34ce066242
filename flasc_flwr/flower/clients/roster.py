"""The roster: which nodes take part, and what each may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from logging import INFO, WARNING
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import ErrorCode, log
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, reason_of

_INTRODUCTION_TIMEOUT = 120.0
_UNREACHABLE = (
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)
"""Errors by which the SuperLink reports that a node is away."""


class Roster:
    """The nodes that have introduced themselves.

    Each node is asked once, by a message that :func:`flasc_flwr.flasc_mod` answers
    from the node's ``--node-config``. A node that joins later is asked when it is
    first seen.

    Parameters
    ----------
    budget_of : Callable[[str, Mapping[str, Any]], Budget]
        Returns a node's budget from its name and its own settings.
    """

    def __init__(self, budget_of: Callable[[str, Mapping[str, Any]], Budget]) -> None:
        self._budget_of = budget_of
        self._known: dict[int, Participant] = {}
        self._refused: set[int] = set()

    def present(
        self, grid: Grid, ledger: Ledger, *, at_least: int, timeout: float
    ) -> list[Participant]:
        """Return the participants online now, in the same order in every run.

        Waits until at least `at_least` are online. `ledger` counts the bytes of
        introductions.

        Raises
        ------
        RuntimeError
            If there are fewer after `timeout` seconds, or no node can take part.
        """
        deadline = time.monotonic() + timeout
        logged = 0.0
        while True:
            online = set(grid.get_node_ids())
            strangers = online - self._known.keys() - self._refused
            self._introduce(grid, ledger, sorted(strangers))
            here = [self._known[node] for node in online if node in self._known]
            if here and len(here) >= at_least:
                return sorted(here, key=lambda p: (p.name, p.node_id))
            if online and online <= self._refused:
                raise RuntimeError(
                    f"none of the {len(online)} connected nodes can take part: "
                    "see the warnings above"
                )
            if time.monotonic() >= deadline:
                raise RuntimeError(
                    f"{len(here)} of at least {at_least} nodes are connected after "
                    f"{timeout:.0f} s: start more SuperNodes, or simulate more with "
                    "--federation-config 'num-supernodes=N'"
                )
            if time.monotonic() - logged > 10:
                log(INFO, "Waiting for nodes: %d of %d", len(here), at_least)
                logged = time.monotonic()
            time.sleep(0.5)

    def _introduce(self, grid: Grid, ledger: Ledger, strangers: list[int]) -> None:
        """Ask each new node for its name and budget."""
        content = RecordDict({CONTROL: ConfigRecord({INTRODUCE: True})})
        questions = [Message(content, node, MessageType.TRAIN) for node in strangers]
        ledger.sent(questions, [str(node) for node in strangers])
        names: dict[int, str] = {}
        for reply in exchange(grid, questions, _INTRODUCTION_TIMEOUT):
            node = reply.metadata.src_node_id
            ledger.received(reply)
            if reply.has_error() and reply.error.code in _UNREACHABLE:
                log(
                    WARNING,
                    "Node %d is unreachable (%s); will retry",
                    node,
                    reason_of(reply),
                )
                continue
            try:
                self._known[node] = self._participant(node, reply)
                names[node] = self._known[node].name
            except ValueError as error:
                self._refused.add(node)
                log(WARNING, "Node %d cannot take part: %s", node, error)
        ledger.introduced(names)

    def _participant(self, node: int, reply: Message) -> Participant:
        answer = None
        if not reply.has_error():
            answer = reply.content.config_records.get(CONTROL)
        if answer is None:
            sent = reason_of(reply) if reply.has_error() else "another reply"
            raise ValueError(
                "its ClientApp did not introduce itself; it needs flasc_mod as the "
                f"first mod, ClientApp(mods=[flasc_mod]). It sent: {sent}"
            )
        name = str(answer.get("name", node))
        budget = self._budget_of(name, dict(answer))
        return Participant(node_id=node, name=name, budget=budget)
