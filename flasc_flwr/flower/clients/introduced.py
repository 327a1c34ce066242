"""A node's answer to an introduction: its name and its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message

from flasc_flwr.core.methods.budget import AUTO, Budget
from flasc_flwr.core.methods.upload_pace import UPLOAD_BYTES, UploadPace
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.error_reason import reason_of
from flasc_flwr.flower.node_config import NODE_CONFIG
from flasc_flwr.flower.state.node_names import UNNAMED
from flasc_flwr.flower.wire import CONTROL

BudgetOf = Callable[[str, Mapping[str, Any]], Budget]
"""Returns a node's budget from its name and its own settings."""

PARTITIONS = "num-partitions"
"""Key of a client's answer, and of its ``--node-config``, if it trains on a part."""

_LONGEST_NAME = 60


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
        answer = records_of(reply.content, ConfigRecord).get(CONTROL)
    if answer is None:
        sent = reason_of(reply) if reply.has_error() else "another reply"
        if NODE_CONFIG in sent:  # what the device itself refuses
            raise ValueError(sent)
        raise ValueError(
            "its ClientApp did not introduce itself; it needs flasc_mod as the "
            f"first mod, ClientApp(mods=[flasc_mod]). It sent: {sent}"
        )
    name = named(answer.get("name", node))
    return Participant(
        node_id=node,
        name=name,
        budget=budget_of(name, dict(answer)),
        partitions=_partitions(answer.get(PARTITIONS)),
        pace=UploadPace.of(answer),
        paced=answer.get(UPLOAD_BYTES) == AUTO,
        answer=dict(answer),
    )


def _partitions(given: object) -> int | None:
    """Return into how many parts a client says that the run's data is split."""
    return given if type(given) is int and given > 0 else None


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
