"""Download rules: which entries of the server vector travel."""

from __future__ import annotations

from collections.abc import Callable

from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.sparsity import Positions, SparseVector

Supports = dict[tuple[int, float], Positions]
"""Supports that were selected once and stay, by the size of the adapter (which depends
on the client's rank) and the density."""

DownloadRule = Callable[[Layout, Vector, float, Scoring, Supports], SparseVector]
"""Takes an adapter's layout and vector, a density in (0, 1], the scoring, and the
supports that stay, to which it may add. At density 1 every rule sends everything."""


def largest(
    layout: Layout,
    vector: Vector,
    density: float,
    scoring: Scoring,
    supports: Supports,
) -> SparseVector:
    """Send the largest weights of this round (FLASC)."""
    return scoring.largest(layout, vector, density)


def fixed_support(
    layout: Layout,
    vector: Vector,
    density: float,
    scoring: Scoring,
    supports: Supports,
) -> SparseVector:
    """Send the entries that were the largest when this density was first used."""
    if density == 1:  # nothing is fixed; roles have their own densities
        return scoring.largest(layout, vector, density)
    key = len(vector), density
    if key not in supports:
        supports[key] = scoring.largest(layout, vector, density).positions
    return SparseVector(len(vector), supports[key], vector[supports[key]])
