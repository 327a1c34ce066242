"""Download rules: which entries of the server vector travel at a density."""

from __future__ import annotations

from collections.abc import Callable

from flasc_flwr.layout import Vector
from flasc_flwr.sparsity import Positions, SparseVector, top_k

Supports = dict[float, Positions]
"""Supports that were chosen once and are kept, by density."""

DownloadRule = Callable[[Vector, float, Supports], SparseVector]
"""Takes the server vector, a density in (0, 1], and the supports kept, to which it
may add. At density 1 every rule sends the whole vector."""


def largest(vector: Vector, density: float, supports: Supports) -> SparseVector:
    """Send the largest weights, chosen anew each round (FLASC)."""
    return top_k(vector, density)


def fixed_support(vector: Vector, density: float, supports: Supports) -> SparseVector:
    """Send the entries that were the largest when this density was first used."""
    if density == 1:
        return top_k(vector, density)
    if density not in supports:
        supports[density] = top_k(vector, density).positions
    return SparseVector(len(vector), supports[density], vector[supports[density]])
