"""Reading one client's reply, which is never trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

from flwr.app import Message, MetricRecord, RecordDict

from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.ranks import Truncation, truncation
from flasc_flwr.core.sparsity import Positions, SparseVector
from flasc_flwr.flower.clients.roster import Participant
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import CONTROL, RANK, payload_of, reason_of

Read = TypeVar("Read")


class RejectedReplyError(ValueError):
    """A reply that cannot be used, and why."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Update:
    """What a client's training gave.

    Attributes
    ----------
    client : str
        Whose it is.
    sparse : SparseVector
        The top-k of trained minus received, in terms of the whole adapter.
    rank : int
        How many components the client has.
    pruned : bool
        Whether these are fewer than it was sent.
    examples : float
        How many examples it trained on.
    metrics : RecordDict
        Its metrics.
    """

    client: str
    sparse: SparseVector
    rank: int
    pruned: bool
    examples: float
    metrics: RecordDict


def metrics_of(reply: Message, weighted_by_key: str) -> RecordDict:
    """Return a reply's metrics alone.

    Raises
    ------
    RejectedReplyError
        If the reply is an error, or lacks one MetricRecord with a positive, finite
        `weighted_by_key`.
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
            f"{weighted_by_key!r} is {examples!r}, allowed is a number above 0"
        )
    return RecordDict({key: record})


def update_of(
    reply: Message,
    cohort: Mapping[int, Participant],
    cut: Callable[[int | None], Truncation],
    weighted_by_key: str,
    shared_support: Callable[[Budget], Positions | None] = lambda budget: None,
) -> Update:
    """Decode the update in a reply to a training message.

    Parameters
    ----------
    reply : Message
        The reply.
    cohort : Mapping[int, Participant]
        Who was asked, by node id, with what each had to use.
    cut : Callable[[int or None], Truncation]
        Cuts the adapter to a rank.
    weighted_by_key : str
        Metric that holds the number of examples.
    shared_support : Callable[[Budget], Positions or None], optional
        Where an update lies that comes without positions, by its client's budget.

    Raises
    ------
    RejectedReplyError
        If the reply is an error, was not asked for, lacks its metrics, or its payload
        is defect.
    """
    metrics = metrics_of(reply, weighted_by_key)
    records = reply.content.array_records
    if len(records) != 1:
        raise RejectedReplyError(f"expected one ArrayRecord, got {len(records)}")
    participant = cohort.get(reply.metadata.src_node_id)
    if participant is None:
        raise RejectedReplyError("it was not asked, or has answered already")
    asked = cut(participant.budget.rank)
    try:
        payload = payload_of(next(iter(records.values())))
        own = truncation(asked.layout, _rank_said(reply, asked.rank))
        support = shared_support(participant.budget)
        if support is not None:
            support = own.narrow(support)
        sparse = _decode(payload, own.layout, support)
    except ValueError as error:
        raise RejectedReplyError(str(error)) from None
    (record,) = metrics.metric_records.values()
    examples: Any = record[weighted_by_key]
    return Update(
        client=participant.name,
        sparse=asked.pad_sparse(own.pad_sparse(sparse)),
        rank=own.rank,
        pruned=own.rank < asked.rank,
        examples=float(examples),
        metrics=metrics,
    )


def _decode(payload: bytes, layout: Layout, support: Positions | None) -> SparseVector:
    """Decode an update; on a shared support it has values alone."""
    if support is None:
        return decode(payload, size=layout.size, fingerprint=layout.fingerprint)
    values = decode(payload, size=len(support)).densify()
    return SparseVector(layout.size, support, values)


def _rank_said(reply: Message, asked: int) -> int | None:
    """Return the rank that a reply says it came down to; None if it says nothing."""
    control = reply.content.config_records.get(CONTROL)
    if control is None or RANK not in control:
        return None
    rank: Any = control[RANK]
    if type(rank) is not int or not 1 <= rank <= asked:
        raise RejectedReplyError(
            f"{RANK!r} is {rank!r}, allowed is a whole number, 1 to {asked}"
        )
    return rank


def usable(
    replies: Iterable[Message], read: Callable[[Message], Read], ledger: Ledger
) -> Iterator[Read]:
    """Yield what `read` makes of each reply, and note those that it rejects."""
    for reply in replies:
        ledger.received(reply)
        try:
            yield read(reply)
        except RejectedReplyError as error:
            ledger.rejected(reply, str(error))
