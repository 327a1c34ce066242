"""A client that takes part in a run, and how it introduces itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.state.ledger import UNNAMED
from flasc_flwr.flower.wire import CONTROL, reason_of

BudgetOf = Callable[[str, Mapping[str, Any]], Budget]
"""Returns a node's budget from its name and its own settings."""

_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client that takes part in a run.

    Attributes
    ----------
    node_id : int
        Flower's id of the node.
    name : str
        Name of the client, equal in every run, and of one node at a time.
    budget : Budget
        What it may use: its own budget in the roster, this turn's in a cohort.
    """

    node_id: int
    name: str
    budget: Budget


def introduced(node: int, reply: Message, budget_of: BudgetOf) -> Participant:
    """Return who a node is, from its answer to an introduction.

    Raises
    ------
    ValueError
        If the answer is not one of :func:`flasc_flwr.flasc_mod`, or has a name or a
        budget that cannot be used.
    """
    answer = None
    if not reply.has_error():
        answer = reply.content.config_records.get(CONTROL)
    if answer is None:
        sent = reason_of(reply) if reply.has_error() else "another reply"
        raise ValueError(
            "its ClientApp did not introduce itself; it needs flasc_mod as the "
            f"first mod, ClientApp(mods=[flasc_mod]). It sent: {sent}"
        )
    name = named(answer.get("name", node))
    return Participant(node_id=node, name=name, budget=budget_of(name, dict(answer)))


def named(given: object) -> str:
    """Return a client's name, printable and short.

    Raises
    ------
    ValueError
        If nothing of it can be printed, or it begins as those of nodes do that have
        not introduced themselves.
    """
    name = printable(given, _LONGEST_NAME)
    if not name or name.startswith(UNNAMED):
        raise ValueError(
            f"name must be printable and must not begin with {UNNAMED!r}, got {name!r}"
        )
    return name
