"""What a client may report as metrics: a few finite numbers with readable names."""

from __future__ import annotations

from logging import INFO
from math import isfinite
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict

from flasc_flwr.core.printable import printable
from flasc_flwr.flower.clients.guard import RejectedReplyError
from flasc_flwr.flower.compat import log, records_of
from flasc_flwr.flower.error_reason import reason_of

MOST_METRICS = 100
"""Largest number of metrics in a reply."""

LONGEST_NAME = 100
"""Largest number of characters in the name of a metric."""


def metrics_of(reply: Message, weighted_by_key: str) -> tuple[RecordDict, float]:
    """Return a reply's metrics without its arrays, and its number of examples.

    Raises
    ------
    RejectedReplyError
        If the reply is an error, does not have one MetricRecord with a positive, finite
        `weighted_by_key`, or has a metric that is not a finite number with a readable
        name.
    """
    if reply.has_error():
        raise RejectedReplyError(reason_of(reply))
    records = records_of(reply.content, MetricRecord)
    if len(records) != 1:
        raise RejectedReplyError(f"expected one MetricRecord, got {len(records)}")
    ((key, record),) = records.items()
    examples: Any = record.get(weighted_by_key)
    if not _is_finite(examples) or examples <= 0:
        raise RejectedReplyError(
            f"{weighted_by_key!r} must be a number above 0, got {_shown(examples)}"
        )
    _check(record)
    return RecordDict({key: record}), float(examples)


def with_shared_names(replies: list[RecordDict]) -> list[RecordDict]:
    """Return metrics of a cohort with only the names that all of them have.

    A mean over some of the clients, with the weights of all, would be wrong.
    """
    names = [
        {name for one in records_of(r, MetricRecord).values() for name in one}
        for r in replies
    ]
    shared = set.intersection(*names) if names else set()
    dropped = set.union(*names) - shared if names else set()
    if not dropped:
        return replies
    log(
        INFO,
        "Metrics that not all clients report are left out: %s",
        printable(", ".join(sorted(dropped))),
    )
    return [
        RecordDict(
            {
                key: MetricRecord({n: v for n, v in one.items() if n in shared})
                for key, one in records_of(reply, MetricRecord).items()
            }
        )
        for reply in replies
    ]


def _check(record: MetricRecord) -> None:
    if len(record) > MOST_METRICS:
        raise RejectedReplyError(
            f"expected at most {MOST_METRICS} metrics, got {len(record)}"
        )
    for name, value in record.items():
        shown = printable(name, LONGEST_NAME)
        if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME):
            raise RejectedReplyError(
                f"the name of a metric must be 1 to {LONGEST_NAME} printable "
                f"characters, got {len(name)}: {shown!r}"
            )
        if not _is_finite(value):
            raise RejectedReplyError(
                f"metric {shown!r} must be a finite number, got {_shown(value)}"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _shown(value: Any) -> str:
    return "a list" if isinstance(value, list) else repr(value)
