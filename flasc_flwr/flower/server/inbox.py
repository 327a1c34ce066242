"""The inbox: reading replies, the trust boundary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.codec import decode
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.clients.guard import Guard, RejectedReplyError
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import payload_of, reason_of


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """Reads the replies to one exchange of messages.

    A reply that cannot be used is rejected: the reason goes into the round's row and
    the log, and the round continues.

    Attributes
    ----------
    asked : dict[int, Participant]
        Who has not replied yet, by node id, with this turn's budget.
    server : ServerVector
        What was sent.
    guard : Guard
        Bounds on an update.
    private : Private, optional
        Clips each update, in a private run.
    weighted_by_key : str
        Metric that holds a client's number of examples.
    uniform : bool
        Whether every client has weight 1, or its number of examples.
    ledger : Ledger
        Counts what came in.
    metrics : list[RecordDict]
        Metrics of the training replies taken so far.
    """

    asked: dict[int, Participant]
    server: ServerVector
    guard: Guard
    private: Private | None
    weighted_by_key: str
    uniform: bool
    ledger: Ledger
    metrics: list[RecordDict] = field(default_factory=list)

    def take(self, reply: Message) -> Contribution | None:
        """Decode and check a reply to a training message; None if it is rejected."""
        self.ledger.received(reply)
        try:
            metrics, examples = metrics_of(reply, self.weighted_by_key)
            client = self._sender(reply)
            update, rank = self._decode(reply, client)
            update = self.guard.let_in(update, examples)
            if self.private:
                update = self.private.clip(update)
        except RejectedReplyError as error:
            self.ledger.rejected(reply, str(error))
            return None
        del self.asked[client.node_id]  # a second reply is rejected
        contribution = Contribution(update, rank, 1.0 if self.uniform else examples)
        self.ledger.uploaded(contribution)
        self.server.measure(client.name, contribution)
        self.metrics.append(metrics)
        return contribution

    def metrics_in(self, replies: Iterable[Message]) -> list[RecordDict]:
        """Return the metrics of the replies that can be used."""
        metrics = []
        for reply in replies:
            self.ledger.received(reply)
            try:
                metrics.append(metrics_of(reply, self.weighted_by_key)[0])
            except RejectedReplyError as error:
                self.ledger.rejected(reply, str(error))
        return metrics

    def _sender(self, reply: Message) -> Participant:
        client = self.asked.get(reply.metadata.src_node_id)
        if client is None:
            raise RejectedReplyError(
                "unexpected reply: the node is not in this round's cohort or has "
                "already replied"
            )
        return client

    def _decode(self, reply: Message, client: Participant) -> tuple[SparseVector, int]:
        """Return the update in terms of the whole adapter, and the client's rank."""
        records = reply.content.array_records
        if len(records) != 1:
            raise RejectedReplyError(f"expected one ArrayRecord, got {len(records)}")
        cut = self.server.cut(client.budget.rank)
        layout = cut.layout
        support = self.server.shared_support(client.budget)
        try:
            payload = payload_of(next(iter(records.values())))
            if support is None:
                sparse = decode(
                    payload, size=layout.size, fingerprint=layout.fingerprint
                )
            else:  # the payload has values only
                values = decode(payload, size=len(support)).densify()
                sparse = SparseVector(layout.size, support, values)
        except ValueError as error:
            raise RejectedReplyError(str(error)) from None
        return cut.pad_sparse(sparse), cut.rank


def metrics_of(reply: Message, weighted_by_key: str) -> tuple[RecordDict, float]:
    """Return a reply's metrics without its arrays, and its number of examples.

    Raises
    ------
    RejectedReplyError
        If the reply is an error, or does not have one MetricRecord with a positive,
        finite `weighted_by_key`.
    """
    if reply.has_error():
        raise RejectedReplyError(reason_of(reply))
    records: Mapping[str, MetricRecord] = reply.content.metric_records
    if len(records) != 1:
        raise RejectedReplyError(f"expected one MetricRecord, got {len(records)}")
    ((key, record),) = records.items()
    examples: Any = record.get(weighted_by_key)
    if not isinstance(examples, int | float) or not (
        isfinite(examples) and examples > 0
    ):
        raise RejectedReplyError(
            f"{weighted_by_key!r} must be a number above 0, got {examples!r}"
        )
    return RecordDict({key: record}), float(examples)
