"""The inbox: reading replies, the trust boundary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.codec import decode
from flasc_flwr.core.outliers import ENOUGH
from flasc_flwr.core.printable import why
from flasc_flwr.core.sparsity import Positions, SparseVector
from flasc_flwr.flower.clients.cohort_bounds import Update, within_norms
from flasc_flwr.flower.clients.guard import Guard, RejectedReplyError
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.envelope import opened
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.server.instructing import shared_support
from flasc_flwr.flower.server.reminding import heard
from flasc_flwr.flower.server.reply_metrics import metrics_of
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import payload_of


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """Reads the replies to one exchange of messages.

    A reply that cannot be used is rejected, whatever exception reading it raises: the
    reason goes into the round's row and the log, and the round continues.

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

    def updates(self, replies: Iterable[Message]) -> Iterator[Contribution]:
        """Yield the updates that are let in, in the order of the replies.

        Not bounded by each other in a private run: the clipping norm bounds each, and
        a rejection would depend on the other clients' data. Nor where too few are asked
        for a median: none has to wait for it, decoded.
        """
        taken = filter(None, map(self.take, replies))
        bounded = not self.private and len(self.asked) >= ENOUGH
        ratio = self.guard.norm_ratio if bounded else 0.0
        for update in within_norms(taken, ratio, self.ledger.rejected):
            try:
                self.server.measure(update.client, update.contribution)
            except Exception as error:
                self.ledger.rejected(update.reply, why(error))
                continue
            self.ledger.uploaded(update.contribution)
            if self.server.remembers:
                fleet = self.server.state.fleet
                records = records_of(update.reply.content, ArrayRecord).values()
                payload = payload_of(next(iter(records)))
                fleet.collect(update.client, self.ledger.round, payload)
            self.metrics.append(update.metrics)
            yield update.contribution
            del update  # before the next is decoded

    def take(self, reply: Message) -> Update | None:
        """Decode and check a reply to a training message; None if it is rejected."""
        try:
            self.ledger.received(reply)
            self._open(reply)
            metrics, examples = metrics_of(reply, self.weighted_by_key)
            client = self._sender(reply)
            update, rank = self._decode(reply, client)
            segment = self._segment(update, client)
            update = self.guard.let_in(update, examples)
            if self.private:
                update = self.private.clip(update)
        except Exception as error:
            self.ledger.rejected(reply, why(error))
            return None
        del self.asked[client.node_id]  # a second reply is rejected
        weight = 1.0 if self.uniform else examples
        contribution = Contribution(update, rank, weight, segment)
        part = client.budget.segment
        return Update(reply, client.name, metrics, contribution, part)

    def surplus(self, reply: Message) -> None:
        """Note what a reply that is not needed says about its client's memory.

        The client has its download all the same, or could not use it.
        """
        self.ledger.received(reply)
        with suppress(Exception):  # whatever is wrong with it: it is not used
            self._open(reply)

    def metrics_in(self, replies: Iterable[Message]) -> list[RecordDict]:
        """Return the metrics of the replies to evaluation that can be used."""
        metrics = []
        for reply in replies:
            try:
                self.ledger.received(reply)
                self._open(reply)
                measured, examples = metrics_of(reply, self.weighted_by_key)
                self.guard.require_examples(examples)
                del self.asked[self._sender(reply).node_id]
            except Exception as error:
                self.ledger.rejected(reply, why(error))
            else:
                metrics.append(measured)
        return metrics

    def _open(self, reply: Message) -> None:
        """Open a reply, and note what it says about its client's memory."""
        if not reply.has_error():
            reply.content = opened(reply.content)
            heard(self.server, self._sender(reply), reply)

    def _sender(self, reply: Message) -> Participant:
        client = self.asked.get(reply.metadata.src_node_id)
        if client is None:
            raise RejectedReplyError(
                "unexpected reply: the node is not in this round's cohort or has "
                "already replied"
            )
        return client

    def _segment(self, update: SparseVector, client: Participant) -> Positions | None:
        """Return where the entries lie that a client was to send of; None: anywhere.

        Raises
        ------
        RejectedReplyError
            If the update has others.
        """
        if client.budget.segment is None:
            return None
        cut = self.server.cut(client.budget.rank)
        segment = cut.positions(client.budget.segment.place(cut.layout.size))
        if not np.isin(update.positions, segment, assume_unique=True).all():
            raise RejectedReplyError(
                "entries must lie in the segment that the client was asked for, got "
                "others"
            )
        return segment

    def _decode(self, reply: Message, client: Participant) -> tuple[SparseVector, int]:
        """Return the update in terms of the whole adapter, and the client's rank."""
        records = records_of(reply.content, ArrayRecord)
        if len(records) != 1:
            raise RejectedReplyError(f"expected one ArrayRecord, got {len(records)}")
        cut = self.server.cut(client.budget.rank)
        layout = cut.layout
        support = shared_support(self.server, client.budget)
        payload = payload_of(next(iter(records.values())))
        if support is None:
            sparse = decode(payload, size=layout.size, fingerprint=layout.fingerprint)
        else:  # the payload has values only
            values = decode(payload, size=len(support)).densify()
            sparse = SparseVector(layout.size, support, values)
        return cut.pad_sparse(sparse), cut.rank
