"""Aggregation rules: how the server combines a cohort's updates, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flasc_flwr.core.aggregation.average import (
    Average,
    frobenius,
    replication,
    zero_padded_updates,
    zero_padding,
)
from flasc_flwr.core.aggregation.contribution import (
    WEIGHTINGS,
    Aggregate,
    Aggregator,
    Contribution,
    MakeAggregator,
)
from flasc_flwr.core.aggregation.products import ExactResidual, Stacking, Svd

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
        The paper or code it comes from.
    make : MakeAggregator
        Makes its aggregator.
    averages : bool
        Whether it averages the factors: its update can then serve any server optimizer
        as a gradient. Other rules replace the factors every round.
    """

    source: str
    make: MakeAggregator
    averages: bool = True


AGGREGATIONS = {
    "zero-padded-updates": Aggregation(
        source="FLASC's code for unequal devices, arXiv 2406.05233",
        make=partial(Average, padding=zero_padded_updates),
    ),
    "zero-padding": Aggregation(
        source="the baseline of Byun & Lee, arXiv 2406.17477",
        make=partial(Average, padding=zero_padding),
    ),
    "replication": Aggregation(
        source="Byun & Lee, arXiv 2406.17477",
        make=partial(Average, padding=replication),
    ),
    "frobenius": Aggregation(
        source="HetLoRA: Cho et al., arXiv 2401.06432",
        make=frobenius,
    ),
    "stacking": Aggregation(
        source="FLoRA: Wang et al., arXiv 2409.05976",
        make=Stacking,
        averages=False,
    ),
    "svd": Aggregation(
        source="FlexLoRA: Bai et al., arXiv 2402.11505",
        make=Svd,
        averages=False,
    ),
}
"""Aggregation rules by name."""


def aggregator(name: str, exact_residual: bool = False) -> MakeAggregator:
    """Return the factory of a rule's aggregator, with FedEx-LoRA's residual or not."""
    make = AGGREGATIONS[name].make
    if not exact_residual:
        return make
    return lambda layout, vector: ExactResidual(make(layout, vector), layout, vector)
