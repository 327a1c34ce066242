"""Evaluation at the server: of what clients receive, and of the dense vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.app.typing import MetricRecordValues

from flasc_flwr.core.layout import Vector
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

    Raises
    ------
    ValueError
        If two metrics would have one name.
    """
    budgets = server.allotment.standard(server.turn)
    downloads = server.downloads
    vectors = {name: downloads.whole(budget) for name, budget in budgets.items()}
    vectors["server_"] = downloads.vector
    metrics: dict[str, MetricRecordValues] = {}
    seen: list[tuple[Vector, dict[str, MetricRecordValues]]] = []
    for prefix, vector in vectors.items():
        # Of the plain arrays, there is only one copy at a time.
        found = next((r for other, r in seen if np.array_equal(other, vector)), None)
        if found is None:
            found = dict(evaluate_fn(server_round, downloads.plain(vector)) or {})
            seen.append((vector, found))
        for name, value in found.items():
            if prefix + name in metrics:
                raise ValueError(
                    f"evaluate_fn must not name metrics {name!r} and {prefix + name!r}"
                    ": the second is the name of the first, of other arrays"
                )
            metrics[prefix + name] = value
    return metrics
