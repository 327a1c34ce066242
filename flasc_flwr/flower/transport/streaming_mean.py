"""FedAvg's weighted mean of updates, one reply at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import frexp, ldexp
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    Strategy,
)

from flasc_flwr.flower.compat import READS_REPLIES, aggregate_metricrecords, records_of
from flasc_flwr.flower.transport.incoming_reply import IncomingReply, ParcelUpdate
from flasc_flwr.flower.transport.parcel import EMPTY
from flasc_flwr.flower.transport.sent_record import SentRecord

_READS_ONLY_THE_MEAN = {FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi}


def needs_only_the_mean(strategy: Strategy) -> bool:
    """Return whether a strategy uses the replies' arrays only in FedAvg's mean.

    It does if all code that reads replies is Flower's: in FedAvg, FedProx, FedAdam and
    the like, and in subclasses that do not override that code. A user's function for
    metrics is given whole replies, so it may read arrays, too.
    """
    if not isinstance(strategy, FedAvg):
        return False
    if strategy.train_metrics_aggr_fn is not aggregate_metricrecords:
        return False
    if any(name in vars(strategy) for name in READS_REPLIES):
        return False
    readers = {
        kind
        for kind in type(strategy).__mro__
        if kind is not Strategy and any(name in vars(kind) for name in READS_REPLIES)
    }
    return readers <= _READS_ONLY_THE_MEAN


def common_sent_record(replies: Sequence[IncomingReply]) -> SentRecord | None:
    """Return the record that all replies update; None if there is not exactly one.

    Replies with an error do not count. Every other reply must have one ArrayRecord: a
    parcel with the arrays that were sent.
    """
    updated = {}
    for reply in replies:
        if reply.message.has_error() or reply.error:
            continue
        records = records_of(reply.message.content, ArrayRecord)
        if len(reply.parcels) != 1 or len(records) != 1:
            return None
        if reply.parts:
            return None
        (sent,) = reply.parcels.values()
        updated[id(sent)] = sent
    return next(iter(updated.values())) if len(updated) == 1 else None


class StreamingMean:
    """The weighted mean of updates to one record; memory O(N) for any cohort.

    Parameters
    ----------
    sent : SentRecord
        The record that the updates are added to.
    weighted_by_key : str
        Metric with a reply's weight.
    """

    def __init__(self, sent: SentRecord, weighted_by_key: str) -> None:
        self._sent = sent
        self._key = weighted_by_key
        self._stand_in = sent.form.layout.tensors[0].name
        self._sum = np.zeros(sent.form.layout.size, np.float32)
        self._weight = 0.0
        self._exponent: int | None = None

    def add(self, reply: Message, updates: Mapping[str, ParcelUpdate]) -> Message:
        """Add a reply's update; return the reply with one empty array in its place.

        FedAvg reads every array of every reply, so the fewer the faster. Arrays that
        travelled whole keep their names and values. Entries that were not sent count as
        zero updates.
        """
        for key, parcel in updates.items():
            weight = self._scaled(self._weight_of(reply))
            weighted = parcel.update.values * np.float32(weight)
            # Faster than ``+=``, with the same result: positions never repeat.
            np.add.at(self._sum, parcel.update.positions, weighted)
            self._weight += weight
            emptied = ArrayRecord()
            for name, array in (parcel.whole | {self._stand_in: EMPTY}).items():
                emptied[name] = array
            reply.content[key] = emptied
        return reply

    def fill_in(self, averaged: ArrayRecord) -> ArrayRecord:
        """Return the mean of the replies, given FedAvg's mean of the emptied ones."""
        form = self._sent.form
        empty = {tensor.name: EMPTY for tensor in form.layout.tensors}
        arrays = form.in_order(dict(averaged) | empty)
        self._sum /= np.float32(self._weight)
        return self._sent.plus(self._sum, arrays)

    def _scaled(self, weight: float) -> float:
        """Return a weight in (0, 1], or 0; earlier ones are scaled to the largest.

        By powers of two, which is exact: weights of any size are within float32.
        """
        exponent = frexp(weight)[1]
        if weight and (self._exponent is None or exponent > self._exponent):
            if self._exponent is not None:
                np.ldexp(self._sum, self._exponent - exponent, out=self._sum)
                self._weight = ldexp(self._weight, self._exponent - exponent)
            self._exponent = exponent
        return ldexp(weight, -(self._exponent or 0))

    def _weight_of(self, reply: Message) -> float:
        """Return a reply's weight; FedAvg itself rejects a reply without one."""
        for record in records_of(reply.content, MetricRecord).values():
            weight = record.get(self._key)
            if isinstance(weight, int | float):
                return float(weight)
        return 0.0


class _FillsIn(FedAvg):
    """FedAvg whose mean of the emptied replies gets the mean of their updates."""

    __slots__ = ()
    _flasc_mean: StreamingMean

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        return (self._flasc_mean.fill_in(arrays) if arrays else arrays), metrics


def with_mean(strategy: FedAvg, mean: StreamingMean) -> FedAvg:
    """Return a strategy whose ``aggregate_train`` takes the emptied replies.

    It is the given strategy otherwise, and shares its state. FedAvg's own code reads
    the errors, weights, metrics and whole arrays of the replies. Then `mean` fills in
    the other arrays, before the strategy's own class sees them: there,
    ``super().aggregate_train`` is that of :class:`_FillsIn`, not of FedAvg.
    """
    kind = type(strategy)
    parents: tuple[type, ...] = (_FillsIn,) if kind is FedAvg else (kind, _FillsIn)
    # The mean is in a slot, as the other attributes are the strategy's. The class must
    # not refer to it: Python frees classes only when it collects garbage.
    slot = "_flasc_mean"
    twin: Any = object.__new__(type(kind.__name__, parents, {"__slots__": (slot,)}))
    twin.__dict__ = strategy.__dict__
    object.__setattr__(twin, slot, mean)
    averaging: FedAvg = twin
    return averaging
