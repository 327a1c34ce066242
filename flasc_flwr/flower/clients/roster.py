"""The roster: which nodes take part, and what each may use."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from logging import INFO, WARNING

from flwr.app import Message
from flwr.serverapp import Grid

from flasc_flwr.core.printable import printable, why
from flasc_flwr.flower.clients.exchange import unreachable
from flasc_flwr.flower.clients.introduced import BudgetOf, introduced
from flasc_flwr.flower.clients.introductions import Introductions
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import NodeInfo, log, nodes_online
from flasc_flwr.flower.error_reason import reason_of
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.state.node_names import unnamed

_GRACE = 30.0
"""Seconds without an answer after which the first round waits for no more nodes."""

_LISTEN_EVERY = 10.0
"""Seconds between two looks while a round waits for its replies."""


class Roster:
    """The nodes that have introduced themselves.

    Each node is asked once, by a message that :func:`flasc_flwr.flasc_mod` answers
    from the node's ``--node-config``. No round waits for an answer: a node takes part
    from the next round on. A node that was away is asked again, because it may have
    restarted with another budget; until it answers, its old one holds.

    A name belongs to one node at a time: to the first that is online.

    Parameters
    ----------
    budget_of : BudgetOf
        Returns a node's budget from its name and its own settings.
    timeout : float
        Seconds to wait for enough nodes, and how long an introduction is valid.
    came : Callable[[int, Message], object]
        Called with each node and its answer as soon as it is here.
    admitted : Callable[[Participant], object]
        Called with each node that takes part from now on, once it has its name.
    clock, sleep : Callable
        The time in seconds, and a pause of so many seconds.
    """

    def __init__(
        self,
        budget_of: BudgetOf,
        timeout: float,
        *,
        came: Callable[[int, Message], object] = lambda node, reply: None,
        admitted: Callable[[Participant], object] = lambda participant: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._budget_of = budget_of
        self._came = came
        self._admitted = admitted
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._introductions = Introductions(timeout, clock)
        self._online: dict[int, NodeInfo] = {}
        self._known: dict[int, Participant] = {}
        self._holders: dict[str, int] = {}  # the node of each name
        # Nodes whose name another node had when they introduced themselves.
        self._claims: dict[int, Participant] = {}
        self._refused: dict[int, str] = {}
        # Known nodes that were away since they introduced themselves.
        self._returned: set[int] = set()
        self._opened = False
        self._last_answer = self._last_look = clock()

    def present(
        self, grid: Grid, ledger: Ledger, *, at_least: int
    ) -> list[Participant]:
        """Return the participants online now, in the same order in every run.

        Waits until at least `at_least` are online. The first call also waits for the
        other nodes, as long as one of them has answered in the last 30 seconds: a
        simulation starts with all of its clients. `ledger` counts the bytes of
        introductions, and who is missing.

        Raises
        ------
        RuntimeError
            If there are fewer after the time-out, or `at_least` nodes are online and
            none can take part.
        """
        began = logged = self._clock()
        while True:
            self._look(grid, ledger)
            here = self._here()
            elapsed = self._clock() - began
            late = elapsed >= self._timeout
            if here and len(here) >= at_least and (late or not self._others_coming()):
                break
            refused = self._online.keys() & self._refused.keys()
            # As many as are needed: a single node could otherwise end any run.
            many = late or len(refused) >= at_least
            all_refused = refused and refused == self._online.keys()
            if all_refused and many and not self._known:
                reasons = Counter(self._refused[node] for node in refused)
                ((reason, count),) = reasons.most_common(1)
                raise RuntimeError(
                    f"none of the {len(self._online)} connected nodes can take part, "
                    f"{count} of them because: {reason}"
                )
            if late:
                raise RuntimeError(
                    f"{len(here)} of at least {at_least} nodes are connected after "
                    f"{self._timeout:.0f} s: start more SuperNodes, or simulate more "
                    "with --federation-config 'num-supernodes=N'"
                )
            if self._clock() - logged > 10:
                log(INFO, "Waiting for nodes: %d of %d", len(here), at_least)
                logged = self._clock()
            self._sleep(min(0.5, max(0.05, elapsed / 20)))
        self._opened = True
        ledger.missing(self._missing())
        return here

    def now(self, grid: Grid, ledger: Ledger) -> list[Participant]:
        """Return the participants online now as :meth:`present`, without waiting."""
        self._look(grid, ledger)
        ledger.missing(self._missing())
        return self._here()

    def listen(self, grid: Grid, ledger: Ledger) -> None:
        """Ask new nodes and take answers, while a round waits for its replies."""
        if self._clock() - self._last_look >= _LISTEN_EVERY:
            self._look(grid, ledger)

    def away(self, node: int) -> None:
        """Note that a node did not get a message because it is away."""
        if node in self._known:
            self._returned.add(node)

    def _here(self) -> list[Participant]:
        """Return the participants that were online at the last look, in order."""
        here = [self._known[node] for node in self._online if node in self._known]
        return sorted(here, key=lambda p: (p.name, p.node_id))

    def _look(self, grid: Grid, ledger: Ledger) -> None:
        """Find out who is online, ask who is new or was away, and take the answers."""
        self._last_look = self._clock()
        self._see(nodes_online(grid))
        settled = self._known.keys() | self._claims.keys() | self._refused.keys()
        strangers = self._online.keys() - settled
        back = self._returned & self._online.keys()
        asked = {node: self._name(node) for node in sorted(strangers | back)}
        self._introductions.ask(grid, ledger, asked)
        names: dict[int, str] = {}
        for node, reply in self._introductions.answers(grid):
            if self._take(node, reply, ledger):
                names[node] = self._known[node].name
        names |= self._take_over()
        ledger.introduced(names)

    def _see(self, online: dict[int, NodeInfo]) -> None:
        """Note who was away since the last look: not online, or started again."""
        gone = self._online.keys() - online.keys()
        again = {
            node
            for node in self._online.keys() & online.keys()
            if self._online[node].last_activated_at != online[node].last_activated_at
        }
        for node in gone | again:
            # What it was asked went to a process that may be gone.
            self._introductions.close(node)
            self._refused.pop(node, None)
            self._claims.pop(node, None)
            if node in self._known:
                self._returned.add(node)
        self._online = online

    def _take(self, node: int, reply: Message, ledger: Ledger) -> bool:
        """Take one answer; return whether the node takes part."""
        self._last_answer = self._clock()
        try:
            self._came(node, reply)
            ledger.received(reply, self._name(node))
            if unreachable(reply):
                reason = printable(f"unreachable ({reason_of(reply)})")
                self._introductions.failed(node, reason)
                return False
            participant = introduced(node, reply, self._budget_of)
        # Whatever a node sends: it stays out, and the run continues.
        except Exception as error:
            self._leave_out(node)
            self._refused[node] = why(error)
            log(WARNING, "%s cannot take part: %s", self._shown(node), why(error))
            return False
        return self._admit(participant)

    def _admit(self, participant: Participant) -> bool:
        """Let a node take part, unless another that is online has its name."""
        node = participant.node_id
        self._leave_out(node)
        holder = self._holders.get(participant.name)
        if holder is not None and holder in self._online:
            self._claims[node] = participant
            log(
                WARNING,
                "%s cannot take part while %s does: both are called %r. Give each "
                "device its own partition-id",
                self._shown(node),
                self._shown(holder),
                participant.name,
            )
            return False
        if holder is not None:
            self._leave_out(holder)
        self._known[node] = participant
        self._holders[participant.name] = node
        self._admitted(participant)
        return True

    def _take_over(self) -> dict[int, str]:
        """Let nodes have the names of nodes that left; return those names."""
        names = {}
        for node, participant in list(self._claims.items()):
            holder = self._holders.get(participant.name)
            if holder not in self._online and self._admit(participant):
                names[node] = participant.name
                log(INFO, "%s is now %r", self._shown(node), participant.name)
        return names

    def _leave_out(self, node: int) -> None:
        """Forget all about a node."""
        self._introductions.close(node)
        if node in self._known:
            del self._holders[self._known.pop(node).name]
        self._claims.pop(node, None)
        self._refused.pop(node, None)
        self._returned.discard(node)

    def _others_coming(self) -> bool:
        """Return whether the first round should wait for more answers."""
        if self._opened or self._clock() - self._last_answer >= _GRACE:
            return False
        return self._introductions.awaited(self._online)

    def _missing(self) -> dict[int, str]:
        """Return who is online and does not take part, and why."""
        return {n: self._why(n) for n in self._online if n not in self._known}

    def _why(self, node: int) -> str:
        if node in self._refused:
            return self._refused[node]
        if node in self._claims:
            name = self._claims[node].name
            return f"its name {name!r} is that of node {self._holders.get(name)}"
        return self._introductions.reason(node)

    def _name(self, node: int) -> str:
        """Return the name under which a node's messages are counted."""
        return self._known[node].name if node in self._known else unnamed(node)

    def _shown(self, node: int) -> str:
        """Return a node's id, with the name that Flower knows it by if it has one."""
        info = self._online.get(node)
        name = printable(getattr(info, "name", ""), 60)
        return f"Node {node} ({name})" if name else f"Node {node}"
