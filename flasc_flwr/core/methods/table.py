"""Methods by name: the table, and how to replace parts of a row."""

from __future__ import annotations

from dataclasses import replace

from flasc_flwr.core.aggregation import AGGREGATIONS, Tuning
from flasc_flwr.core.methods.method import Method, Tunes
from flasc_flwr.core.methods.role_densities import NONE, RoleDensities
from flasc_flwr.core.methods.schedules import decaying_to
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.methods.selection import fixed_support
from flasc_flwr.core.methods.trainable import NOT_A, NOT_B, SUPPORT
from flasc_flwr.core.ranges import choice

_DENSE = Method(
    name="dense",
    source="FedAvg of LoRA factors: Zhang et al., arXiv 2305.05644",
    download_density=1.0,
    upload_density=1.0,
    value_format="float32",
)
_CORES = Method(
    name="fed-sb",
    source="Fed-SB: Singhal et al., arXiv 2502.15436",
    tunes=Tunes.CORES,
    usual_density=1.0,
    aggregation="replication",
    server_optimizer="sgd",
    value_format="float32",
)

METHODS = {
    method.name: method
    for method in (
        _DENSE,
        Method(
            name="flasc",
            source="FLASC: Kuo et al., arXiv 2406.05233",
        ),
        Method(
            name="flasc-ef",
            source="this project: FLASC with error feedback both ways (as Fed-EF, Li & "
            "Li, arXiv 2211.14292, does up)",
            error_feedback="both",
            # AdamW moves every entry by about its learning rate each round; a sparse
            # difference cannot follow that.
            server_optimizer="fedavgm",
            # What rounding leaves out is sent later, too. It rounds small values to
            # zero; `step` sends them larger than they are, which overshoots.
            value_format="int4",
        ),
        Method(
            name="flasc-shared-mask",
            source="this project: FLASC with one mask of all clients, each way",
            uploads="support",
            # B starts at zero and stays smaller than A for long: without the quota no
            # entry of B would ever travel.
            scoring=Scoring(quota="tensor"),
            dense_rounds=1,
        ),
        Method(
            name="sparse-adapter",
            source="fixed mask after one dense round, as FLASC's code compares with it",
            download=fixed_support,
            # Selected at the start, the support would have no entry of B, which is 0.
            dense_rounds=1,
            trainable=(SUPPORT,),
            upload_density=1.0,
        ),
        Method(
            name="fedselect",
            source="new mask every round, as FLASC's code compares with it",
            trainable=(SUPPORT,),
            upload_density=1.0,
        ),
        Method(
            name="adapter-lth",
            source="iterative magnitude pruning, as FLASC's code compares with it",
            schedule=decaying_to,
            usual_decay=0.95,
            trainable=(SUPPORT,),
            upload_density=1.0,
        ),
        replace(
            _DENSE,
            name="ffa-lora",
            source="FFA-LoRA: Sun et al., arXiv 2403.12313",
            init="shared-seed",
            trainable=(NOT_A,),
        ),
        replace(
            _DENSE,
            name="rolora",
            source="RoLoRA: Chen et al., arXiv 2502.01755",
            # B first: while B is zero, A has no gradient.
            trainable=(NOT_A, NOT_B),
        ),
        replace(
            _DENSE,
            name="full",
            source="FedAvg of all parameters: McMahan et al., arXiv 1602.05629",
            tunes=Tunes.FULL,
        ),
        replace(
            _DENSE,
            name="linear",
            source="FedAvg of the head only, as FLASC's code compares with it",
            tunes=Tunes.HEAD,
        ),
        Method(
            name="flasc-tiers",
            source="FLASC's code for unequal devices, by density",
            scoring=Scoring(whole_head=True),
            tiers="density",
        ),
        replace(
            _DENSE,
            name="hetlora-tiers",
            source="FLASC's code for unequal devices, by rank",
            tiers="rank",
        ),
        replace(
            _DENSE,
            name="hetlora",
            source="HetLoRA: Cho et al., arXiv 2401.06432",
            tiers="rank",
            aggregation="frobenius",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="replication",
            source="Byun & Lee, arXiv 2406.17477",
            rank_assignment="validation",
            aggregation="replication",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="flora",
            source="FLoRA: Wang et al., arXiv 2409.05976",
            init="shared-seed",
            tiers="rank",
            aggregation="stacking",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="flexlora",
            source="FlexLoRA: Bai et al., arXiv 2402.11505",
            tiers="rank",
            aggregation="svd",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="fedex-lora",
            source="FedEx-LoRA: Singhal et al., arXiv 2410.09432",
            exact_residual=True,
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="florist",
            source="FLoRIST: arXiv 2506.09199",
            tiers="rank",
            aggregation="florist",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="raflora",
            source="raFLoRA: arXiv 2602.13486",
            tiers="rank",
            aggregation="rank-partitioned",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="lora-fair",
            source="LoRA-FAIR: Bian et al., arXiv 2411.14961",
            aggregation="fair",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="alternating",
            source="FedSRD's server: arXiv 2510.04601, without its pruning",
            aggregation="alternating",
            server_optimizer="sgd",
        ),
        replace(
            _DENSE,
            name="segments",
            source="EcoLoRA's round robin: Liu et al., arXiv 2506.02001",
            upload_segments=4,
            aggregation="senders",
        ),
        _CORES,
        replace(
            _CORES,
            name="ravan",
            source="RAVAN: Raje et al., arXiv 2506.05568",
            core_heads=4,
        ),
    )
}


def compose(
    name: str,
    *,
    score: str = "auto",
    quota: str = "auto",
    roles: RoleDensities = NONE,
    tuning: Tuning | None = None,
    **parts: str | int | bool,
) -> Method:
    """Return the method `name` with some of its parts replaced.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    score, quota : str
        Parts of its scoring; ``"auto"`` keeps the method's own.
    roles : RoleDensities
        Densities of roles. Default: none.
    tuning : Tuning, optional
        Numbers that some aggregation rules need. Default: the method's own.
    **parts : str, int or bool
        Any of ``core_heads``, ``core_basis``, ``init``, ``dense_rounds``, ``tiers``,
        ``rank_assignment``, ``rank_scale``, ``upload_segments``, ``aggregation``,
        ``error_feedback``, ``exact_residual`` and ``server_optimizer``. ``"auto"``
        keeps the method's own.
        If another part requires a certain server optimizer, ``"auto"`` becomes that
        one; with segments and without error feedback, averaging becomes ``senders``.

    Raises
    ------
    ValueError
        If a name is unknown, or the parts do not fit together.
    """
    choice(*METHODS).require("method", name)
    method = METHODS[name]
    chosen = {key: part for key, part in parts.items() if part != "auto"}
    exact = chosen.get("exact_residual") is True
    aggregation = AGGREGATIONS.get(str(chosen.get("aggregation")))
    if exact or (aggregation and not aggregation.averages):
        chosen.setdefault("server_optimizer", "sgd")
    feedback = chosen.get("error_feedback", method.error_feedback)
    if chosen.get("upload_segments", method.upload_segments) != 1:
        rule = _of_segments(method.aggregation, feedback == "none")
        chosen.setdefault("aggregation", rule)
    scoring = replace(
        method.scoring,
        score=method.scoring.score if score == "auto" else score,
        quota=method.scoring.quota if quota == "auto" else quota,
        roles=roles,
    )
    tuning = tuning or method.tuning
    return replace(method, scoring=scoring, tuning=tuning, **chosen)  # type: ignore[arg-type]


def _of_segments(aggregation: str, lost: bool) -> str:
    """Return the rule for updates of which each client sends a segment.

    With feedback, what was not sent is not lost, and must not count more later.
    """
    if not lost:
        return "zero-padded-updates" if aggregation == "senders" else aggregation
    counted = ("zero-padded-updates", "replication")
    return "senders" if aggregation in counted else aggregation
