"""Aggregation: what the server makes of a cohort's updates, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flasc_flwr.core.aggregation.average import (
    Average,
    frobenius,
    no_update,
    replicated,
    zero_weight,
)
from flasc_flwr.core.aggregation.contribution import (
    WEIGHTINGS,
    Aggregate,
    Aggregator,
    Contribution,
    MakeAggregator,
)
from flasc_flwr.core.aggregation.products import Exact, OfProducts, refactored, stacked

__all__ = [
    "AGGREGATIONS",
    "WEIGHTINGS",
    "Aggregate",
    "Aggregation",
    "Aggregator",
    "Contribution",
    "aggregator",
]


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """An aggregation rule.

    Attributes
    ----------
    source : str
        Where the rule is from.
    make : MakeAggregator
        Makes its aggregator.
    averages : bool
        Whether it averages the factors: any server optimizer may then take its update
        as a gradient. A rule that finds new factors sets them instead.
    """

    source: str
    make: MakeAggregator
    averages: bool = True


AGGREGATIONS = {
    "zero-padded-updates": Aggregation(
        source="FLASC's code for unequal devices, arXiv 2406.05233",
        make=partial(Average, missing=no_update),
    ),
    "zero-padding": Aggregation(
        source="the baseline of Byun & Lee, arXiv 2406.17477",
        make=partial(Average, missing=zero_weight),
    ),
    "replication": Aggregation(
        source="Byun & Lee, arXiv 2406.17477",
        make=partial(Average, missing=replicated),
    ),
    "frobenius": Aggregation(
        source="HetLoRA: Cho et al., arXiv 2401.06432",
        make=frobenius,
    ),
    "stacking": Aggregation(
        source="FLoRA: Wang et al., arXiv 2409.05976",
        make=partial(OfProducts, finish=stacked),
        averages=False,
    ),
    "svd": Aggregation(
        source="FlexLoRA: Bai et al., arXiv 2402.11505",
        make=partial(OfProducts, finish=refactored),
        averages=False,
    ),
}
"""Aggregation rules by name."""


def aggregator(name: str, exact_residual: bool = False) -> MakeAggregator:
    """Return what makes the aggregator of a rule, with FedEx's residual if asked."""
    make = AGGREGATIONS[name].make
    if not exact_residual:
        return make
    return lambda layout, vector: Exact(make(layout, vector), layout, vector)
