"""Bounds on replies that depend on the rest of the cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.clipping import l2_norm
from flasc_flwr.core.outliers import MedianBound, capped_weights
from flasc_flwr.core.segments import Segment
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.compat import records_of


@dataclass(frozen=True, eq=False)
class Update:
    """A client's update, decoded and checked, and the reply that it came in.

    Attributes
    ----------
    reply : Message
        The reply.
    client : str
        Name of the client.
    metrics : RecordDict
        What the client measured.
    contribution : Contribution
        The update, with its rank and weight.
    segment : Segment, optional
        The part of the adapter that it is of; None: all.
    """

    reply: Message
    client: str
    metrics: RecordDict
    contribution: Contribution
    segment: Segment | None = None

    @cached_property
    def norm(self) -> float:
        """L2 norm of the update."""
        return l2_norm(self.contribution.update.values)


def within_norms(
    updates: Iterable[Update], ratio: float, reject: Callable[[Message, str], None]
) -> Iterator[Update]:
    """Yield the updates whose norm is within the cohort's bound.

    In the order of the cohort, except for those that had to wait for the median of the
    whole cohort (:class:`~.MedianBound`). Memory does not grow with the cohort. Updates
    of different segments are not compared: B, A and the head differ in size.

    Parameters
    ----------
    updates : Iterable[Update]
        The round's updates, in the order of the cohort.
    ratio : float
        Largest L2 norm, in multiples of the median; 0 is unlimited.
    reject : Callable[[Message, str], None]
        Called with each reply whose update is larger, and the reason.
    """
    if not ratio:
        yield from updates
        return
    bounds: dict[Segment | None, MedianBound[Update]] = {}

    def let_in(turns: Iterator[tuple[Update, float]]) -> Iterator[Update]:
        for update, largest in turns:
            if update.norm <= largest:
                yield update
                continue
            reject(
                update.reply,
                f"norm of the update must be <= {largest:.6g}, {ratio:g} times the "
                f"median of the round's updates, got {update.norm:.6g}",
            )

    for update in updates:
        held = update if update.norm else _without_entries(update)
        bound = bounds.setdefault(update.segment, MedianBound(ratio))
        yield from let_in(bound.take(held, update.norm))
    for bound in bounds.values():
        yield from let_in(bound.rest())


def with_capped_weights(
    metrics: list[RecordDict], weighted_by_key: str, ratio: float
) -> list[RecordDict]:
    """Return clients' metrics, none weighing more than `ratio` times the median.

    Parameters
    ----------
    metrics : list[RecordDict]
        One MetricRecord each, with a number under `weighted_by_key`.
    weighted_by_key : str
        Metric that holds a client's number of examples.
    ratio : float
        Largest weight, in multiples of the median; 0 is unlimited.
    """
    records = [next(iter(records_of(one, MetricRecord).items())) for one in metrics]
    weights: list[Any] = [record[weighted_by_key] for _, record in records]
    return [
        each
        if weight == capped
        else RecordDict({key: MetricRecord({**record, weighted_by_key: capped})})
        for each, (key, record), weight, capped in zip(
            metrics, records, weights, capped_weights(weights, ratio), strict=True
        )
    ]


def _without_entries(update: Update) -> Update:
    """Return an update of zeros as an empty one: any number of them may wait."""
    contribution = update.contribution
    nothing = SparseVector(
        contribution.update.size,
        contribution.update.positions[:0],
        contribution.update.values[:0],
    )
    return replace(update, contribution=replace(contribution, update=nothing))
