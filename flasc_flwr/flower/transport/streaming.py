"""Replies reduced one by one, for strategies that need nothing but their mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    Strategy,
)

from flasc_flwr.flower.compat import READS_REPLIES
from flasc_flwr.flower.transport.base import Base
from flasc_flwr.flower.transport.parcel import record_of
from flasc_flwr.flower.transport.round_trip import Opened, Update

_READS_THE_MEAN_ALONE = {FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi}


def needs_only_the_mean(strategy: Strategy) -> bool:
    """Tell whether a strategy reads nothing of the replies' arrays but FedAvg's mean.

    So it is where all its code that reads replies is Flower's own, as in FedAvg,
    FedProx and FedAdam, and in their subclasses that leave that code as it is.
    """
    if not isinstance(strategy, FedAvg):
        return False
    readers = {
        kind
        for kind in type(strategy).__mro__
        if kind is not Strategy and any(name in vars(kind) for name in READS_REPLIES)
    }
    return readers <= _READS_THE_MEAN_ALONE


def only_base(opened: Sequence[Opened]) -> Base | None:
    """Return the base of all replies, where each is one parcel and nothing else."""
    bases = {}
    for one in opened:
        if one.reply.has_error() or one.error:
            continue
        if len(one.parcels) != 1 or len(one.reply.content.array_records) != 1:
            return None
        (base,) = one.parcels.values()
        bases[id(base)] = base
    return next(iter(bases.values())) if len(bases) == 1 else None


class Mean:
    """The weighted mean of updates to one base, in memory that does not grow.

    Parameters
    ----------
    base : Base
        What all the updates are added to.
    weighted_by_key : str
        Metric that holds a reply's weight.
    """

    def __init__(self, base: Base, weighted_by_key: str) -> None:
        self._base = base
        self._key = weighted_by_key
        self._sum = np.zeros(base.form.layout.size, np.float32)
        self._weight = 0.0

    def take(self, reply: Message, updates: Mapping[str, Update]) -> Message:
        """Add a reply's update, and return the reply with a stand-in for its arrays.

        The stand-in has their names, and those arrays that travelled whole; the others
        are empty. What was not sent of an update counts as zero.
        """
        for key, update in updates.items():
            weight = self._weight_of(reply)
            weighed = update.sparse.values * np.float32(weight)
            # Faster than ``+=``; positions never repeat, so both mean the same.
            np.add.at(self._sum, update.sparse.positions, weighed)
            self._weight += weight
            form = self._base.form
            inside = {tensor.name: _EMPTY for tensor in form.layout.tensors}
            reply.content[key] = record_of(form, inside | update.whole)
        return reply

    def fill(self, averaged: ArrayRecord) -> ArrayRecord:
        """Return the mean of the replies, given FedAvg's mean of their stand-ins."""
        whole = {name: averaged[name] for name in self._base.form.whole.values()}
        self._sum /= np.float32(self._weight)
        return self._base.moved(self._sum, whole)

    def _weight_of(self, reply: Message) -> float:
        """Return a reply's weight; FedAvg itself refuses the reply if it has none."""
        for record in reply.content.metric_records.values():
            weight = record.get(self._key)
            if isinstance(weight, int | float):
                return float(weight)
        return 0.0


def with_mean(strategy: FedAvg, mean: Mean) -> FedAvg:
    """Return a strategy whose ``aggregate_train`` takes stand-ins for replies.

    It is the given one in all else, and shares its state. FedAvg's own code reads the
    stand-ins: their errors, weights, metrics and whole arrays. Then `mean` fills in the
    other arrays, before the code of the strategy's own class sees them: the class made
    here has :class:`FedAvg` replaced where ``super().aggregate_train`` finds it.
    """

    class Averaged(FedAvg):
        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            arrays, metrics = super().aggregate_train(server_round, replies)
            return (mean.fill(arrays) if arrays else arrays), metrics

    kind = type(strategy)
    parents: tuple[type, ...] = (Averaged,) if kind is FedAvg else (kind, Averaged)
    twin: Any = object.__new__(type(kind.__name__, parents, {}))
    twin.__dict__ = strategy.__dict__
    averaging: FedAvg = twin
    return averaging


_EMPTY = Array(np.zeros(0, np.float32))
