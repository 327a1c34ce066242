"""Ranks: the first components of an adapter form an adapter of a lower rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.cores import core_components, cut_core
from flasc_flwr.core.layout import Layout, Role, Tensor, Vector
from flasc_flwr.core.ranges import choice, integer
from flasc_flwr.core.sparsity import Positions, SparseVector

RANK_SCALES = ("common", "own")
"""How a client of rank r scales B A. ``common``: by alpha / lora-rank, like every other
client (FLASC's code). ``own``: by alpha / r (FlexLoRA, arXiv 2402.11505); B is rescaled
in transit, so that the product is the same on both sides."""

_RANK_AXES = {Role.A: 0, Role.B: 1}
_RANKED = (Role.A, Role.CORE)
"""Tensors of which the first axis has the rank's length."""


def rank_of(layout: Layout) -> int:
    """Return the largest rank in an adapter; 0 if it has no factors and no cores."""
    return max((t.shape[0] for t in layout.tensors if t.role in _RANKED), default=0)


@lru_cache(maxsize=64)
def components(layout: Layout) -> NDArray[np.uint16]:
    """Return the component, 0 to r - 1, that each entry of the vector belongs to.

    Component j is row j of every A and column j of every B; of a core, what clients of
    rank j + 1 have and those of rank j do not. Entries outside the factors and cores
    count as component 0, which every client has. Shape (N,), read-only.
    """
    result = np.zeros(layout.size, np.uint16)
    for tensor, place in layout.slices():
        axis = _RANK_AXES.get(tensor.role)
        if tensor.role == Role.CORE:
            result[place] = core_components(tensor.shape).ravel()
        elif axis is not None:
            index = np.arange(tensor.shape[axis], dtype=np.uint16)
            along = [1] * len(tensor.shape)
            along[axis] = -1
            shaped = np.broadcast_to(index.reshape(along), tensor.shape)
            result[place] = shaped.ravel()
    result.flags.writeable = False
    return result


@dataclass(frozen=True, eq=False)
class Truncation:
    """The first components of an adapter, and how to pad them back to its full size.

    Truncation and zero-padding as in HetLoRA, arXiv 2401.06432.

    Attributes
    ----------
    full : Layout
        Layout of the full adapter, of size N.
    layout : Layout
        Layout of the truncated adapter, of size n.
    rank : int
        Number of components kept.
    places : NDArray[np.int64], shape (n,), or None
        Positions of the truncated adapter's entries in the full vector, ascending; None
        if all components are kept.
    scales : NDArray[np.float32], shape (n,), or None
        Factor of each entry on the way to the client; None if all are 1.
    """

    full: Layout
    layout: Layout
    rank: int
    places: Positions | None = None
    scales: Vector | None = None

    def truncate(self, vector: Vector) -> Vector:
        """Return the truncated adapter, shape (n,), of a full vector, shape (N,)."""
        if self.places is None:
            return vector
        kept = vector[self.places]
        return kept if self.scales is None else kept * self.scales

    def pad_sparse(self, sparse: SparseVector) -> SparseVector:
        """Return entries of the truncated adapter as entries of the full one."""
        if self.places is None:
            return sparse
        values = sparse.values
        if self.scales is not None:
            with np.errstate(over="ignore"):  # bounds on updates refuse infinity
                values = values / self.scales[sparse.positions]
        return SparseVector(self.full.size, self.places[sparse.positions], values)

    def positions(self, place: slice) -> Positions:
        """Return where a part of the truncated adapter lies in the full one."""
        if self.places is None:
            return np.arange(place.start, place.stop)
        return self.places[place]

    def pad(self, vector: Vector) -> Vector:
        """Return a full vector, shape (N,), with zeros in the components cut off."""
        if self.places is None:
            return vector
        full = np.zeros(self.full.size, np.float32)
        full[self.places] = vector if self.scales is None else vector / self.scales
        return full


@lru_cache(maxsize=64)
def truncation(layout: Layout, rank: int | None, scale: str = "common") -> Truncation:
    """Return the truncation of an adapter to its first `rank` components.

    Parameters
    ----------
    layout : Layout
        The full adapter.
    rank : int or None
        How many rows of every A and columns of every B are kept, and what of a core
        stands between them; None keeps all, as does any number that is not below the
        adapter's rank.
    scale : str
        One of `RANK_SCALES`.

    Raises
    ------
    ValueError
        If the rank is below 1, or the scale is unknown.
    """
    choice(*RANK_SCALES).require("rank-scale", scale)
    full_rank = rank_of(layout)
    if rank is None or rank >= full_rank:
        return Truncation(layout, layout, full_rank)
    integer(1).require("rank", rank)
    truncated = Layout(tuple(_truncated(tensor, rank) for tensor in layout.tensors))
    places = np.flatnonzero(components(layout) < rank).astype(np.int64)
    scales = None if scale == "common" else _b_scales(layout, truncated)
    return Truncation(layout, truncated, rank, places, scales)


def _truncated(tensor: Tensor, rank: int) -> Tensor:
    if tensor.role == Role.CORE:
        return replace(tensor, shape=cut_core(tensor.shape, rank))
    axis = _RANK_AXES.get(tensor.role)
    if axis is None:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = min(rank, shape[axis])
    return replace(tensor, shape=tuple(shape))


def _b_scales(full: Layout, truncated: Layout) -> Vector:
    """Return for the entries of every B the fraction of its rank that is kept, else 1.

    Modules may have unequal ranks: one of a low rank may be kept whole.
    """
    scales = np.ones(truncated.size, np.float32)
    ranks = {t.name: t.shape[1] for t in full.tensors if t.role == Role.B}
    for tensor, place in truncated.slices():
        if tensor.role == Role.B:
            scales[place] = tensor.shape[1] / ranks[tensor.name]
    return scales
