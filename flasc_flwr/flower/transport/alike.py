"""Replies that a strategy of Flower's can aggregate together: alike in structure.

Flower's strategies stop the run if one client's records have different names from the
others', and they fail on lists or shapes that differ. So a reply that differs from most
is rejected before they see it. If all are wrong in the same way from the start,
Flower's own error says so: the app is wrong, and not a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy

from flasc_flwr.core.printable import printable, why
from flasc_flwr.flower.compat import aggregate_metricrecords, records_of
from flasc_flwr.flower.transport.incoming_reply import IncomingReply
from flasc_flwr.flower.transport.parcel import EMPTY

_AVERAGE_REPLIES = {
    flower.Bulyan,
    flower.FedAdagrad,
    flower.FedAdam,
    flower.FedAvg,
    flower.FedAvgM,
    flower.FedMedian,
    flower.FedTrimmedAvg,
    flower.FedYogi,
    flower.Krum,
    flower.MultiKrum,
    flower.QFedAvg,
}
"""Strategies that combine replies entry by entry; others collect trees."""

_MOST_EXAMPLES = 2.0**53
"""Largest number of examples: beyond it numbers are not exact, and sums overflow."""

_NUMBERS = "biufc"

_METRICS, _ARRAYS = "record of metrics", "record of arrays"

Part = tuple[str, Hashable, Hashable]
"""One name in a reply: what it stands for, where it is, and of which kind."""

Structure = frozenset[Part]
"""All names in a reply."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What a strategy reads of replies.

    Attributes
    ----------
    weighted_by_key : str
        Metric that holds a client's number of examples.
    arrays : bool
        Whether it reads arrays.
    values : bool
        Whether Flower averages the metrics. A user's function may take lists of any
        length.
    """

    weighted_by_key: str
    arrays: bool
    values: bool

    @classmethod
    def of(cls, strategy: Strategy, *, trains: bool) -> Reader | None:
        """Return what a strategy reads of replies; None if user code reads them.

        Parameters
        ----------
        strategy : Strategy
            The strategy, perhaps in one of Flower's wrappers.
        trains : bool
            Whether the replies are to training, or to evaluation.
        """
        step = "aggregate_train" if trains else "aggregate_evaluate"
        inner = strategy
        while not isinstance(inner, FedAvg):
            wrapped = getattr(inner, "strategy", None)
            if not (type(inner).__module__.startswith("flwr.") and wrapped):
                return None
            inner = wrapped
        readers = {
            kind
            for kind in type(inner).__mro__
            if kind is not Strategy
            and any(name in vars(kind) for name in (step, "_check_and_log_replies"))
        }
        if not readers <= _AVERAGE_REPLIES:
            return None
        averages = (
            inner.train_metrics_aggr_fn if trains else inner.evaluate_metrics_aggr_fn
        )
        return cls(
            weighted_by_key=inner.weighted_by_key,
            arrays=trains,
            values=averages is aggregate_metricrecords,
        )

    def without_odd_ones(
        self, replies: Sequence[IncomingReply], before: Structure | None = None
    ) -> tuple[list[IncomingReply], Structure | None]:
        """Return the replies; those that differ from most have an error.

        If as many have another structure, the one that Flower can aggregate counts.

        Parameters
        ----------
        replies : Sequence[IncomingReply]
            The replies of a round.
        before : Structure, optional
            What the replies of the last round had in common that Flower could
            aggregate. Then any reply that it cannot aggregate has an error.

        Returns
        -------
        list[IncomingReply] and Structure or None
            The replies, and what those without an error have in common; `before` if
            Flower cannot aggregate them, or if there are none.
        """
        checked = [self._checked(reply) for reply in replies]
        counts = Counter(structure for _, structure in checked if structure is not None)
        if not counts:
            return [reply for reply, _ in checked], before

        def rank(structure: Structure) -> tuple[bool, int, bool, bool]:
            fits = self._why_not(structure) is None
            same = structure == before
            return fits or before is None, counts[structure], same, fits

        usual = max(counts, key=rank)
        fault = self._why_not(usual)
        # An app that was wrong from the start gets Flower's own error.
        reason = fault if before is not None else None
        alike = [
            reply
            if structure is None
            else replace(reply, error=_difference(structure, usual) or reason)
            for reply, structure in checked
        ]
        return alike, before if fault else usual

    def _checked(self, reply: IncomingReply) -> tuple[IncomingReply, Structure | None]:
        """Return a reply and its structure; with an error, and None, if it is bad."""
        if reply.error is not None or reply.message.has_error():
            return reply, None
        try:
            content = reply.message.content
            for record in records_of(content, MetricRecord).values():
                weight: Any = record.get(self.weighted_by_key, 0)
                if not isinstance(weight, list) and not 0 <= weight <= _MOST_EXAMPLES:
                    raise ValueError(
                        f"{self.weighted_by_key!r} must be a number from 0 to 2^53, "
                        f"got {weight!r}"
                    )
            return reply, self._structure(reply)
        except Exception as error:
            return replace(reply, error=why(error)), None

    def _why_not(self, structure: Structure) -> str | None:
        """Return why Flower cannot aggregate replies of a structure; None if it can."""
        kinds = Counter(part[0] for part in structure)
        if kinds[_METRICS] != 1:
            return f"expected one MetricRecord, got {kinds[_METRICS]}"
        if self.arrays and kinds[_ARRAYS] != 1:
            return f"expected one ArrayRecord, got {kinds[_ARRAYS]}"
        name = _metric(self.weighted_by_key)
        weights = [kind for what, _, kind in structure if what == name]
        if weights != [(False, 0)]:
            return f"{self.weighted_by_key!r} must be a number"
        return None

    def _structure(self, reply: IncomingReply) -> Structure:
        """Return every name in a reply, and the kind of what it names."""
        content = reply.message.content
        structure: set[Part] = set()
        for key, record in records_of(content, MetricRecord).items():
            structure.add((_METRICS, key, None))
            for name, value in record.items():
                kind = type(value) is list, self.values and _length(value)
                structure.add((_metric(name), (key, name), kind))
        if not self.arrays:
            return frozenset(structure)
        for key in records_of(content, ArrayRecord):
            structure.add((_ARRAYS, key, None))
            for name, array in reply.arrays(key).items():
                if array is EMPTY:
                    # Compared by what was sent: in other replies it may travel whole.
                    array = reply.parcels[key].arrays[name]
                what = f"array {printable(name, 50)!r}"
                structure.add((what, (key, name), _kind_of_array(array)))
        return frozenset(structure)


def _metric(name: str) -> str:
    return f"metric {printable(name, 50)!r}"


def _kind_of_array(array: Array) -> Hashable:
    try:
        numeric = np.dtype(array.dtype).kind in _NUMBERS
    except Exception:
        numeric = False
    return array.shape, array.stype, numeric


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _difference(structure: Structure, usual: Structure) -> str | None:
    """Return the first difference of a reply's structure from the usual one, if any."""
    if structure == usual:
        return None
    what = min(part[0] for part in structure ^ usual)
    return f"its {what} is missing, added or of another kind than in most replies"
