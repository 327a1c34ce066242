"""Download rules: which entries of the server vector travel at a density."""

from __future__ import annotations

from collections.abc import Callable

from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k

Supports = dict[tuple[int, float], Positions]
"""Supports that were chosen once and are kept, by the adapter's size (clients of
another rank have another) and the density."""

DownloadRule = Callable[[Layout, Vector, float, Scoring, Supports], SparseVector]
"""Takes an adapter's layout and vector, a density in (0, 1], how entries are ranked,
and the supports kept, to which it may add. At density 1 every rule sends the whole
vector."""


def largest(
    layout: Layout,
    vector: Vector,
    density: float,
    scoring: Scoring,
    supports: Supports,
) -> SparseVector:
    """Send the largest weights, chosen anew each round (FLASC)."""
    return scoring.largest(layout, vector, density)


def fixed_support(
    layout: Layout,
    vector: Vector,
    density: float,
    scoring: Scoring,
    supports: Supports,
) -> SparseVector:
    """Send the entries that were the largest when this density was first used."""
    if density == 1:
        return top_k(vector, density)
    key = len(vector), density
    if key not in supports:
        supports[key] = scoring.largest(layout, vector, density).positions
    return SparseVector(len(vector), supports[key], vector[supports[key]])
