"""Reading one client's reply, which is never trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

from flwr.app import Message, MetricRecord, RecordDict

from flasc_flwr.codec import decode
from flasc_flwr.flower.ledger import Ledger
from flasc_flwr.flower.wire import payload_of, reason_of
from flasc_flwr.layout import Layout
from flasc_flwr.sparsity import SparseVector

Read = TypeVar("Read")


class RejectedReplyError(ValueError):
    """A reply that cannot be used, and why."""


@dataclass(frozen=True, eq=False)
class Update:
    """What a client's training gave.

    Attributes
    ----------
    sparse : SparseVector
        The top-k of trained minus received.
    examples : float
        How many examples it trained on.
    metrics : RecordDict
        Its metrics.
    """

    sparse: SparseVector
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


def update_of(reply: Message, layout: Layout, weighted_by_key: str) -> Update:
    """Decode the update in a reply to a training message.

    Raises
    ------
    RejectedReplyError
        If the reply is an error, lacks its metrics, or its payload is defect.
    """
    metrics = metrics_of(reply, weighted_by_key)
    records = reply.content.array_records
    if len(records) != 1:
        raise RejectedReplyError(f"expected one ArrayRecord, got {len(records)}")
    try:
        payload = payload_of(next(iter(records.values())))
        sparse = decode(payload, size=layout.size, fingerprint=layout.fingerprint)
    except ValueError as error:
        raise RejectedReplyError(str(error)) from None
    (record,) = metrics.metric_records.values()
    examples: Any = record[weighted_by_key]
    return Update(sparse, float(examples), metrics)


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
