"""The method of a run as lines of a tree, for the log."""

from __future__ import annotations

from flasc_flwr.flower.server.server_vector import ServerVector


def describe(server: ServerVector, weighting: str) -> list[str]:
    """Return the settings of a server vector as the first lines of a tree."""
    method, budget = server.method, server.most
    residual = ", with exact residual" if method.exact_residual else ""
    return [
        f"├──> Method: {method.name} ({method.source})",
        f"│\t├── Density in round 1: download ({budget.download_density:.4g}) | "
        f"upload ({budget.upload_density:.4g})",
        f"│\t├── Score: {method.scoring.score}, quota {method.scoring.quota} | "
        f"Initial A: {method.init}",
        f"│\t├── Tiers: {method.tiers} | Ranks: {method.rank_assignment}, "
        f"{method.rank_scale} scale",
        f"│\t├── Value format: {server.value_format}",
        f"│\t├── Aggregation: {method.aggregation}{residual}",
        f"│\t├── Server optimizer: {server.optimizer}",
        f"│\t└── Mean: {weighting}",
    ]
