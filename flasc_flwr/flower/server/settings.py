"""The settings of a server vector: built from, logged, and shared by resumed runs."""

from __future__ import annotations

from typing import Any

from flasc_flwr.core.codec import VALUES
from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.layout import Role
from flasc_flwr.core.measured_bases import Sides
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS, ServerOptimizer, Sgd
from flasc_flwr.core.ranges import Range, automatic
from flasc_flwr.core.settings import settings_of
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.checkpoint import as_json

_VALUES = Range(
    VALUES.allowed.replace("one of ", "one of 'auto', ", 1), automatic(VALUES).check
)


def build(
    method: Method,
    budget: Budget,
    *,
    decay: Decay,
    values: str,
    optimizer: ServerOptimizer | None,
    seed: int,
    validation: ValidationRanks | None,
    fading: Fading,
    core_sides: Sides | None = None,
) -> ServerVector:
    """Return the server vector of a run; the arguments are those of ``Flasc``.

    Raises
    ------
    ValueError
        If they do not fit the method.
    """
    _VALUES.require("values", values)
    optimizer = optimizer or SERVER_OPTIMIZERS[method.server_optimizer]()
    if method.replaces_factors and optimizer != Sgd():
        raise ValueError(
            f"server_optimizer must be {Sgd()} with method {method.name!r}, which "
            f"replaces the factors every round, got {optimizer}"
        )
    if method.rank_assignment != "validation":
        validation = None
    elif validation is None:
        raise ValueError(
            f"method {method.name!r} assigns ranks by validation loss and needs "
            "validation=ValidationRanks(loss_of=...), got None"
        )
    if method.measures_bases and not core_sides:
        raise ValueError(
            f"method {method.name!r} with core-basis 'gradient' needs core_sides, the "
            "sides of the modules that have cores, got none"
        )
    return ServerVector(
        allotment=Allotment(
            method=method,
            most=budget,
            decay=decay,
            low_rank=validation.low_rank if validation else None,
        ),
        value_format=method.value_format if values == "auto" else values,
        optimizer=optimizer,
        seed=seed,
        validation=validation,
        fading=fading,
        core_sides=core_sides,
    )


def describe(server: ServerVector, weighting: str) -> list[str]:
    """Return the settings as the first lines of a tree, for the log."""
    method, budget = server.method, server.most
    down, up = budget.download_bytes or "any", budget.upload_bytes or "any"
    residual = ", with exact residual" if method.exact_residual else ""
    return [
        f"├──> Method: {method.name} ({method.source})",
        f"│\t├── Density in round 1: download ({budget.download_density:.4g}) | "
        f"upload ({budget.upload_density:.4g})",
        f"│\t├── Most bytes of a payload: download ({down}) | upload ({up})",
        f"│\t├── Score: {method.scoring.score}, quota {method.scoring.quota} | "
        f"Initial A: {method.init}",
        *_roles(method.scoring.roles),
        f"│\t├── Tiers: {method.tiers} | Ranks: {method.rank_assignment}, "
        f"{method.rank_scale} scale",
        *(
            [f"│\t├── Upload: one of {method.upload_segments} segments"]
            if method.upload_segments > 1
            else []
        ),
        *(
            ["│\t├── Bases of cores: measured by the first cohort"]
            if method.measures_bases
            else []
        ),
        f"│\t├── Value format: {server.value_format}",
        f"│\t├── Error feedback: {method.error_feedback}"
        + f" (decay {server.fading.decay:g})" * server.remembers,
        f"│\t├── Aggregation: {method.aggregation}{residual}",
        f"│\t├── Server optimizer: {server.optimizer}",
        f"│\t└── Mean: {weighting}",
    ]


def _roles(roles: RoleDensities) -> list[str]:
    """Return a line with the densities of roles, if there are any."""
    named = [
        f"{role.value} ({density:.4g})" for role in Role if (density := roles.at(role))
    ]
    return [f"│\t├── Own densities: {' | '.join(named)}"] if named else []


def shared(server: ServerVector) -> dict[str, Any]:
    """Return the settings that a resumed run must share, in JSON types."""
    return {
        **{f"method {key}": part for key, part in as_json(server.method).items()},
        "budget": {
            name: getattr(server.allotment.most, name)
            for name in settings_of(server.allotment.most)
        },
        "decay": {
            **as_json(server.allotment.decay),
            "download": server.allotment.download_decay,
        },
        "values": server.value_format,
        "server_optimizer": as_json(server.optimizer),
        "init_seed": server.init_seed,
        "low_rank": server.allotment.low_rank,
        **({"fading": as_json(server.fading)} if server.remembers else {}),
    }
