"""Scores: which entries of a vector count as the largest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from flasc_flwr.core.factors import Matrix, lora_modules
from flasc_flwr.core.initial import fan_in
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.methods.role_densities import NONE, RoleDensities
from flasc_flwr.core.ranges import choice
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k

SCORES = ("magnitude", "fan-in", "product")
"""Score of an entry: ``magnitude`` is ``|w|``, as in FLASC's code; ``fan-in`` is
``|w| sqrt(fan_in)``, which treats initial values of A alike in wide and narrow modules;
``product`` is what the entry adds to B A, ``|A_ij| ||B_:i||`` and ``|B_ij| ||A_j:||``
(FedSRD, arXiv 2510.04601, which scores updates like that)."""

_SMALLEST, _LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max

QUOTAS = ("none", "tensor")
"""Where scores compete: ``none``, over the whole adapter, as in FLASC's code;
``tensor``, within each tensor, so that every tensor gets its share."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the largest entries of an adapter are selected.

    Attributes
    ----------
    score : str
        One of `SCORES`.
    quota : str
        One of `QUOTAS`.
    whole_head : bool
        Always keep all of the head (FLASC's code for unequal devices).
    roles : RoleDensities
        Roles whose entries do not compete with the others'.
    weights : NDArray[np.float32], shape (N,), optional
        The adapter that B and A are of, where what is selected from is a difference.
        Default: what is selected from.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    score: str = "magnitude"
    quota: str = "none"
    whole_head: bool = False
    roles: RoleDensities = NONE
    weights: Vector | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the names."""
        choice(*SCORES).require("score", self.score)
        choice(*QUOTAS).require("quota", self.quota)

    def largest(
        self, layout: Layout, vector: Vector, density: float, share: float = 1.0
    ) -> SparseVector:
        """Keep the fraction `density` of the entries with the highest scores.

        Entries that are exactly zero are never kept.

        Parameters
        ----------
        layout : Layout
            Layout of the adapter.
        vector : NDArray[np.float32], shape (N,)
            What to select from.
        density : float
            Fraction to keep, in (0, 1].
        share : float
            Factor on the densities of roles, in (0, 1]: below 1 where fewer entries
            are kept so that they fit into some bytes.
        """
        if self == Scoring() or (density == 1 and not self.roles):
            return top_k(vector, density)
        scored = vector
        if self.score == "fan-in":
            scored = _times(vector, _root_fan_in(layout))
        elif self.score == "product":
            weights = vector if self.weights is None else self.weights
            scored = _times(vector, partner_norms(layout, weights))
        if self.quota == "tensor":
            chosen = [
                _top(scored[place], *self._density(tensor.role, density, share))
                + place.start
                for tensor, place in layout.slices()
                if tensor.size
            ]
            positions = np.concatenate(chosen)
        else:
            chosen = [
                places[_top(scored[places], within, least)]
                for places, within, least in self._groups(layout, density, share)
            ]
            positions = np.sort(np.concatenate(chosen))
        if not len(positions):
            # So few that no role has one of its own.
            return SparseVector(len(vector), *_at(vector, top_k(scored, density)))
        return SparseVector(len(vector), positions, vector[positions])

    def _groups(
        self, layout: Layout, density: float, share: float
    ) -> list[tuple[Positions, float, int]]:
        """Return groups of entries that compete: density, and fewest to keep."""
        if self.roles:
            roles, least = self.roles, int(share == 1)
            if self.whole_head and roles.head is None:
                roles = replace(roles, head=1.0)
            return [
                (places, density if own is None else own * share, least)
                for places, own in roles.groups(layout)
            ]
        every = np.arange(layout.size)
        if not self.whole_head:
            return [(every, density, 1)]
        head = np.zeros(layout.size, bool)
        for tensor, place in layout.slices():
            head[place] = tensor.role == Role.HEAD
        parts = [(every[~head], density, 1), (every[head], 1.0, 1)]
        return [part for part in parts if len(part[0])]

    def _density(self, role: Role, density: float, share: float) -> tuple[float, int]:
        own = self.roles.at(role)
        if own is not None:
            return own * share, int(share == 1)
        return (1.0 if self.whole_head and role == Role.HEAD else density), 1


def _times(vector: Vector, factors: Vector | Matrix) -> Vector:
    """Return scores that order like ``|vector| * factors``, and are zero where it is.

    Products outside the range of float32 would be infinite, or zero. So where some are,
    each score is the number of lower ones instead, as a float32 of the same bits.
    """
    with np.errstate(over="ignore", under="ignore"):
        scored = (vector * factors).astype(np.float32, copy=False)
    sizes = np.abs(scored)
    lost = (sizes < _SMALLEST) & (vector != 0)
    if not lost.any() and sizes.max(initial=0) <= _LARGEST:
        return scored
    if not np.isfinite(vector).all():
        return vector  # refused when the largest are taken
    exact = np.abs(vector.astype(np.float64) * factors)
    # Zero comes first, and is there even if no score is.
    ordered = np.unique(np.append(exact, 0.0), return_inverse=True)[1][:-1]
    return ordered.astype(np.uint32).view(np.float32)


def _top(scored: Vector, density: float, least: int) -> Positions:
    """Return the positions of the largest; of none where the share is below `least`."""
    if int(len(scored) * density) < 1 - least:
        return np.zeros(0, np.int64)
    return top_k(scored, density).positions


def _at(vector: Vector, chosen: SparseVector) -> tuple[Positions, Vector]:
    return chosen.positions, vector[chosen.positions]


@lru_cache(maxsize=16)
def _root_fan_in(layout: Layout) -> Vector:
    roots = np.empty(layout.size, np.float32)
    for tensor, place in layout.slices():
        roots[place] = fan_in(tensor) ** 0.5
    return roots


def partner_norms(layout: Layout, weights: Vector) -> Vector | Matrix:
    """Return by how much each entry is multiplied in B A, as a norm; shape (N,).

    For an entry of row j of A that is ``||B_:j||``, for one of column j of B
    ``||A_j:||``, and for others 1. A norm that is zero counts as the mean of the others
    of its kind, or 1 if all are zero: before its partner has grown, a component would
    never travel. float32, or float64 where a norm is beyond its range.
    """
    modules = lora_modules(layout)
    factors = [module.factors(weights) for module in modules]
    of_b = _filled([np.linalg.norm(b, axis=0) for b, _ in factors])
    of_a = _filled([np.linalg.norm(a, axis=1) for _, a in factors])
    largest = max((norm.max(initial=0) for norm in (*of_b, *of_a)), default=0)
    norms: Vector | Matrix = np.ones(layout.size, np.float32)
    if largest > _LARGEST:
        norms = norms.astype(np.float64)
    for module, (b, a), norm_b, norm_a in zip(
        modules, factors, of_b, of_a, strict=True
    ):
        norms[module.a_place] = np.broadcast_to(norm_b[:, None], a.shape).ravel()
        norms[module.b_place] = np.broadcast_to(norm_a, b.shape).ravel()
    return norms


def _filled(norms: list[Matrix]) -> list[Matrix]:
    """Return norms with their mean in place of zeros."""
    known = [norm[norm > 0] for norm in norms]
    mean = np.concatenate(known).mean() if any(map(len, known)) else 1.0
    return [np.where(norm > 0, norm, mean) for norm in norms]
