"""Download rules: which entries of the server vector travel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from flasc_flwr.core.fitting import Select
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
    """Send the entries that were the largest when this density was first used.

    A run uses it first with the vector after its dense rounds, also for a client whose
    density comes later.
    """
    if density == 1:  # nothing is fixed; roles have their own densities
        return scoring.largest(layout, vector, density)
    key = len(vector), density
    if key not in supports:
        supports[key] = scoring.largest(layout, vector, density).positions
    return SparseVector(len(vector), supports[key], vector[supports[key]])


def up_to(
    most: float,
    rule: DownloadRule,
    layout: Layout,
    vector: Vector,
    scoring: Scoring,
    supports: Supports,
) -> Select:
    """Return what selects by a rule, at densities up to `most`.

    Below `most`, that is the highest scores of what the rule sends at `most`.

    Parameters
    ----------
    most : float
        The largest density, in (0, 1].
    rule : DownloadRule
        Which entries travel.
    layout : Layout
        Layout of the adapter, of size n.
    vector : NDArray[np.float32], shape (n,)
        The adapter's vector.
    scoring : Scoring
        How entries are ordered.
    supports : Supports
        Supports that stay, to which the rule may add.
    """

    @cache
    def widest() -> SparseVector:
        return rule(layout, vector, most, scoring, supports)

    @cache
    def allowed() -> Vector:
        return vector if rule is largest else widest().densify()

    def select(density: float) -> SparseVector:
        if density >= most:
            return widest()
        return scoring.largest(layout, allowed(), density, density / most)

    return select
