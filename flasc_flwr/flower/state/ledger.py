"""The ledger of one round: what was sent, kept and rejected; the round's row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.json_lines import json_safe
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.printable import printable
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.compat import log, records_of
from flasc_flwr.flower.envelope import payload_in
from flasc_flwr.flower.state.node_names import NodeNames
from flasc_flwr.flower.state.outcome import Outcome
from flasc_flwr.flower.state.phases import Phases
from flasc_flwr.flower.state.tensor_report import Kept
from flasc_flwr.flower.wire import holds_payload, message_bytes, payload_of

_NOTHING = Layout(())
_FREE = ("accuracy", "loss")
"""Fields of a row that the evaluation at the server fills in."""
_IN_SOME_ROWS = {"skip_reason", "waiting", "waiting_nodes"}  # reserved in all

_OF_CLIENTS = ("train_", "clients_")
"""How the names of the metrics that clients report begin."""

_MOST_WAITING = 20
"""So many nodes that are waited for are named in a row."""


class Ledger:
    """Counts everything that happens in one round.

    Attributes
    ----------
    round : int
        The server round.
    kept : Kept
        Which fraction of each tensor its updates had.
    outcome : Outcome

    Parameters
    ----------
    round : int
        The server round; 0 before the first.
    traffic : Traffic
        The run's traffic, to which this round's is added.
    layout : Layout
        Layout of the adapter; empty before the run has one.
    """

    def __init__(self, round: int, traffic: Traffic, layout: Layout = _NOTHING) -> None:
        self.round = round
        self._phases = Phases()
        self.counts_entries_of(layout)
        self.outcome = Outcome()
        self._size = layout.size
        self._traffic = traffic
        self._kept: dict[Direction, list[float]] = {way: [] for way in Direction}
        self._largest: dict[Direction, int] = dict.fromkeys(Direction, 0)
        self._ranks: Counter[int] = Counter()
        self._failures: list[dict[str, Any]] = []
        self._skipped = ""
        self._names = NodeNames()
        self._waiting: dict[int, str] = {}
        self._metrics: dict[str, Any] = {}

    def counts_entries_of(self, layout: Layout) -> None:
        """Count the entries of another layout from now on, and no others."""
        self.kept = Kept(layout)
        self._dead: int | None = None

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count the time in here as spent in one phase of the round."""
        return self._phases.of(name)

    def sent(self, messages: Sequence[Message], names: Sequence[str]) -> None:
        """Count messages sent, each to the client of the same index."""
        shown, sizes = self._names.sent(messages, names), message_bytes(messages)
        for message, name, size in zip(messages, shown, sizes, strict=True):
            self._count(message, name, size, Direction.DOWN)

    def introduced(self, names: Mapping[int, str]) -> None:
        """Set the names under which nodes are counted, also earlier in this round."""
        self._traffic.rename(self.round, self._names.introduced(names))

    def missing(self, reasons: Mapping[int, str]) -> None:
        """Note nodes that are online and do not take part, and why."""
        self._waiting |= reasons

    def received(self, reply: Message, client: str | None = None) -> None:
        """Count a reply, of `client` where the caller knows whose it is."""
        if client is None:
            client = self._names.of(self._names.node_of(reply))
        self._count(reply, client, message_bytes([reply])[0], Direction.UP)

    def rejected(self, reply: Message, reason: str) -> None:
        """Note a rejected reply, and why."""
        node, reason = self._names.node_of(reply), printable(reason)
        client = self._failed(node, reason)
        self.outcome.reject(reply, node, reason)
        log(WARNING, "Rejected reply of client %s (%d): %s", client, node, reason)

    def silent(self, node: int, reason: str) -> None:
        """Note a node whose reply was needed and is missing, and why."""
        client = self._failed(node, reason)
        self.outcome.rejected.append(reason)
        log(WARNING, "Client %s (%d): %s", client, node, reason)

    def downloaded(self, kept: float, dead: int) -> None:
        """Count what one training message carried.

        Parameters
        ----------
        kept : float
            Fraction of the whole adapter's entries.
        dead : int
            Number of modules that arrive with both factors zero.
        """
        self.outcome.asked += 1
        self._kept[Direction.DOWN].append(kept)
        self._dead = max(dead, self._dead or 0)

    def uploaded(self, contribution: Contribution) -> None:
        """Count an update that is aggregated."""
        update = contribution.update
        self._kept[Direction.UP].append(update.kept / update.size)
        self.outcome.updates += 1
        self._ranks[contribution.rank] += 1
        self.kept.add(update)

    def skip(self, reason: str) -> None:
        """Note that the round made no step, and why."""
        self._skipped = reason
        log(WARNING, "Round %d skipped: %s", self.round, reason)

    def measured(self, metrics: Mapping[str, Any]) -> None:
        """Add metrics to the row."""
        self._metrics |= metrics

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of the evaluation at the server.

        Raises
        ------
        ValueError
            If one has the name of another field of the row, or could have that of a
            client's metric.
        """
        # Clients cannot reserve a name: what they report has a prefix.
        own = {n for n in self._metrics if not n.startswith(_OF_CLIENTS)}
        reserved = own | self._counts().keys() | _IN_SOME_ROWS
        for name in metrics:
            if name.startswith(_OF_CLIENTS):
                raise ValueError(
                    f"evaluate_fn must not name a metric {name!r}: names that begin "
                    f"with {' or '.join(_OF_CLIENTS)} are of what clients report"
                )
            if name in reserved:
                raise ValueError(
                    f"evaluate_fn must not name a metric {name!r}, which is another "
                    f"field of the history; reserved are {', '.join(sorted(reserved))}"
                )
        self.outcome.evaluated = metrics
        self.measured(metrics)

    def row(self) -> dict[str, Any]:
        """Return the round's row of the history.

        ``accuracy`` and ``loss`` are null if nothing was evaluated. ``dead_modules`` is
        the largest number of modules that any client received with both factors zero.
        ``largest_payload_down`` and ``_up`` are the bytes of the largest payload, which
        is what fits where the budget limits bytes; ``kept_down`` and ``_up`` are then
        the mean of the densities that were found. ``ranks`` counts clients by rank.
        ``dense_float32_bytes`` is what the same messages would weigh with ``4 * N``
        bytes for each adapter and nothing else. Numbers that are not finite are null.
        Only a skipped round has a ``skip_reason``. ``waiting`` is there only where
        nodes were online and did not take part; it names the first of them, and
        ``waiting_nodes`` is how many there were.
        """
        counts = self._counts()
        row = {"round": self.round, **dict.fromkeys(_FREE), **self._metrics, **counts}
        return {name: json_safe(value) for name, value in row.items()}

    def _counts(self) -> dict[str, Any]:
        """Return the fields of the row that are counted here."""
        return {
            "round": self.round,
            **self._traffic.totals(self.round),
            "dense_float32_bytes": self._traffic.dense_float32_bytes(
                self._size, self.round
            ),
            **{
                f"kept_{way}": float(np.mean(kept)) if kept else None
                for way, kept in self._kept.items()
            },
            **{f"largest_payload_{way}": self._largest[way] for way in Direction},
            "dead_modules": self._dead,
            "ranks": {str(rank): self._ranks[rank] for rank in sorted(self._ranks)},
            "replies": len(self._kept[Direction.UP]),
            "failures": self._failures,
            "skipped": bool(self._skipped),
            **({"skip_reason": self._skipped} if self._skipped else {}),
            **self._who_is_missing(),
            **self._phases.seconds(),
        }

    def _who_is_missing(self) -> dict[str, Any]:
        if not self._waiting:
            return {}
        named = sorted(self._waiting.items())[:_MOST_WAITING]
        return {
            "waiting": [{"node": node, "reason": reason} for node, reason in named],
            "waiting_nodes": len(self._waiting),
        }

    def _failed(self, node: int, reason: str) -> str:
        """Add a failure to the row; return the client's name."""
        client = self._names.of(node)
        self._failures.append({"client": client, "node": node, "reason": reason})
        return client

    def _count(self, message: Message, client: str, size: int, way: Direction) -> None:
        content = message.content if message.has_content() else RecordDict()
        payloads = [
            len(payload_of(record))
            for record in records_of(content, ArrayRecord).values()
            if holds_payload(record)
        ]
        if payload := payload_in(content):
            payloads.append(len(payload))
        self._largest[way] = max(self._largest[way], *payloads, 0)
        self._traffic.record(
            Sent(
                round=self.round,
                client=client,
                direction=way,
                payload=sum(payloads),
                message=size,
                vectors=len(payloads),
            )
        )
