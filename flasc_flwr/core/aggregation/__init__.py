"""Aggregation rules: how the server combines a cohort's updates, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flasc_flwr.core.aggregation.average import (
    Average,
    AverageOfSenders,
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
from flasc_flwr.core.aggregation.products import ExactResidual, Stacking
from flasc_flwr.core.aggregation.replaced import (
    Alternating,
    Fair,
    RankPartitioned,
    Svd,
)
from flasc_flwr.core.aggregation.tuning import Tuning
from flasc_flwr.core.aggregation.weights import Weighted, frobenius, own_weight
from flasc_flwr.core.layout import Layout, Vector

__all__ = [
    "AGGREGATIONS",
    "WEIGHTINGS",
    "Aggregate",
    "Aggregation",
    "Aggregator",
    "Contribution",
    "Tuning",
    "aggregator",
]


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """An aggregation rule.

    Attributes
    ----------
    source : str
        The paper or code it comes from.
    make : Callable[..., Aggregator]
        Makes its aggregator from the layout and the server vector.
    needs : tuple[str, ...]
        What else it is made from: ``turn``, or fields of `Tuning`.
    averages : bool
        Whether it averages the factors: its update can then serve any server optimizer
        as a gradient. Other rules replace the factors every round.
    merges : bool
        Whether it merges products into the backbone: they travel beside the adapter.
    weigh : Callable[[Layout, Vector, Contribution], float], optional
        A client's weight, from the server's adapter and what the client sent; by
        default the contribution's own.
    """

    source: str
    make: Callable[..., Aggregator]
    needs: tuple[str, ...] = ()
    averages: bool = True
    merges: bool = False
    weigh: Callable[[Layout, Vector, Contribution], float] | None = None


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
    "senders": Aggregation(
        source="EcoLoRA: Liu et al., arXiv 2506.02001",
        make=AverageOfSenders,
    ),
    "frobenius": Aggregation(
        source="HetLoRA: Cho et al., arXiv 2401.06432",
        make=partial(Average, padding=zero_padding),
        weigh=frobenius,
    ),
    "stacking": Aggregation(
        source="FLoRA: Wang et al., arXiv 2409.05976",
        make=Stacking,
        averages=False,
        merges=True,
    ),
    "svd": Aggregation(
        source="FlexLoRA: Bai et al., arXiv 2402.11505",
        make=Svd,
        averages=False,
    ),
    "florist": Aggregation(
        source="FLoRIST: arXiv 2506.09199",
        make=Svd,
        needs=("energy",),
        averages=False,
    ),
    "rank-partitioned": Aggregation(
        source="raFLoRA: arXiv 2602.13486",
        make=RankPartitioned,
        averages=False,
    ),
    "fair": Aggregation(
        source="LoRA-FAIR: Bian et al., arXiv 2411.14961",
        make=Fair,
        needs=("ridge",),
        averages=False,
    ),
    "alternating": Aggregation(
        source="FedSRD: arXiv 2510.04601, its server",
        make=Alternating,
        needs=("turn", "ridge"),
        averages=False,
    ),
}
"""Aggregation rules by name."""

_DEFAULT = Tuning()


def aggregator(
    name: str,
    *,
    exact_residual: bool = False,
    weight_ratio: float = 0.0,
    turn: int = 1,
    tuning: Tuning = _DEFAULT,
) -> MakeAggregator:
    """Return the factory of a rule's aggregator.

    Parameters
    ----------
    name : str
        Name of the rule, one of `AGGREGATIONS`.
    exact_residual : bool
        Whether FedEx-LoRA's residual is merged into the backbone.
    weight_ratio : float
        Largest weight of a client, in multiples of the cohort's median; 0 is unlimited.
        Squared for the weight of a rule, the norm of a product of two factors.
    turn : int
        1 before the first step of the server optimizer, 2 after it, and so on.
    tuning : Tuning
        Numbers that some rules need.
    """
    rule = AGGREGATIONS[name]
    given = {"turn": turn, "energy": tuning.energy, "ridge": tuning.ridge}
    needed = {key: given[key] for key in rule.needs if given[key] is not None}

    def make(layout: Layout, vector: Vector) -> Aggregator:
        made = rule.make(layout, vector, **needed)
        if rule.weigh:
            weigh = partial(rule.weigh, layout, vector)
            # The weight is quadratic in the update, and so is its bound.
            made = Weighted(made, layout, weigh, weight_ratio**2)
        if exact_residual:
            made = ExactResidual(made, layout, vector)
        if weight_ratio:
            made = Weighted(made, layout, own_weight, weight_ratio)
        return made

    return make
