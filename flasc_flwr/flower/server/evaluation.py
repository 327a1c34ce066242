"""Evaluation at the server: of what clients receive, and of the dense vector."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord
from flwr.app.typing import MetricRecordValues

from flasc_flwr.flower.server.server_vector import ServerVector

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
"""Evaluates arrays at the server after a round."""


def evaluate_received(
    server: ServerVector, server_round: int, evaluate_fn: EvaluateFn
) -> dict[str, MetricRecordValues]:
    """Evaluate what clients receive now, and the dense vector as ``server_...``.

    Metrics of what lower tiers receive have the prefix of their tier. Equal arrays are
    evaluated once.

    Parameters
    ----------
    server : ServerVector
        The server vector.
    server_round : int
        The round.
    evaluate_fn : EvaluateFn
        Evaluates arrays.

    Returns
    -------
    dict[str, MetricRecordValues]
        All metrics, by prefixed name.
    """
    budgets = server.allotment.standard(server.turn)
    arrays = {name: server.downloads.received(b) for name, b in budgets.items()}
    arrays["server_"] = server.downloads.arrays
    metrics: dict[str, MetricRecordValues] = {}
    seen: list[tuple[ArrayRecord, dict[str, MetricRecordValues]]] = []
    for prefix, record in arrays.items():
        found = next((result for other, result in seen if other == record), None)
        if found is None:
            found = dict(evaluate_fn(server_round, record) or {})
            seen.append((record, found))
        metrics |= {prefix + name: value for name, value in found.items()}
    return metrics
