"""Ranks: the first components of an adapter, as a smaller adapter of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Role, Tensor, Vector
from flasc_flwr.core.ranges import choice
from flasc_flwr.core.sparsity import Positions, SparseVector

RANK_SCALES = ("common", "own")
"""By what a client of rank r scales B A: ``common`` is alpha / lora-rank for all, as
in FLASC's code; ``own`` is alpha / r, as in FlexLoRA's, where B is rescaled as it
travels, so that the product means the same on both sides."""

_RANK_AXES = {Role.A: 0, Role.B: 1}


def rank_of(layout: Layout) -> int:
    """Return the largest rank in an adapter; 0 if it has no LoRA factors."""
    return max((t.shape[0] for t in layout.tensors if t.role == Role.A), default=0)


@lru_cache(maxsize=64)
def components(layout: Layout) -> NDArray[np.uint16]:
    """Return which component, 0 to r - 1, each entry of the vector belongs to.

    Row j of every A and column j of every B are component j. Entries outside the
    factors count as component 0, which every client has. Shape (N,), not to be
    written to.
    """
    result = np.zeros(layout.size, np.uint16)
    for tensor, place in layout.slices():
        axis = _RANK_AXES.get(tensor.role)
        if axis is not None:
            index = np.arange(tensor.shape[axis], dtype=np.uint16)
            along = [1] * len(tensor.shape)
            along[axis] = -1
            shaped = np.broadcast_to(index.reshape(along), tensor.shape)
            result[place] = shaped.ravel()
    result.flags.writeable = False
    return result


@dataclass(frozen=True, eq=False)
class Truncation:
    """An adapter cut to its first components, and the way back.

    Attributes
    ----------
    full : Layout
        Layout of the whole adapter, of size N.
    layout : Layout
        Layout of the smaller adapter, of size n.
    rank : int
        How many components the smaller adapter has.
    places : NDArray[np.int64], shape (n,), or None
        Where its entries lie in the whole vector, ascending; None for all of them.
    b_scale : float
        What entries of B are multiplied by on the way to the client.
    """

    full: Layout
    layout: Layout
    rank: int
    places: Positions | None
    b_scale: float

    def take(self, vector: Vector) -> Vector:
        """Return the smaller adapter's vector, shape (n,), of one of shape (N,)."""
        if self.places is None:
            return vector
        taken = vector[self.places]
        self._scale_b(taken, self.b_scale)
        return taken

    def lift(self, sparse: SparseVector) -> SparseVector:
        """Return entries of the smaller adapter as entries of the whole one."""
        if self.places is None:
            return sparse
        values = sparse.values
        if self.b_scale != 1:
            values = values / self._scales()[sparse.positions]
        return SparseVector(self.full.size, self.places[sparse.positions], values)

    def narrow(self, support: Positions) -> Positions:
        """Return where the kept ones of some positions are in the smaller vector."""
        if self.places is None:
            return support
        return np.flatnonzero(np.isin(self.places, support)).astype(np.int64)

    def pad(self, taken: Vector) -> Vector:
        """Return the whole adapter's vector, zero in the components cut off."""
        if self.places is None:
            return taken
        whole = np.zeros(self.full.size, np.float32)
        whole[self.places] = taken / self._scales() if self.b_scale != 1 else taken
        return whole

    def _scale_b(self, taken: Vector, factor: float) -> None:
        if factor != 1:
            for tensor, place in self.layout.slices():
                if tensor.role == Role.B:
                    taken[place] *= np.float32(factor)

    def _scales(self) -> Vector:
        scales = np.ones(self.layout.size, np.float32)
        self._scale_b(scales, self.b_scale)
        return scales


@lru_cache(maxsize=64)
def truncation(layout: Layout, rank: int | None, scale: str = "common") -> Truncation:
    """Return the cut of an adapter to its first `rank` components.

    Parameters
    ----------
    layout : Layout
        The whole adapter.
    rank : int or None
        How many rows of every A and columns of every B are kept; None, or as many
        as there are, keeps all.
    scale : str
        One of `RANK_SCALES`.

    Raises
    ------
    ValueError
        If the rank is below 1, or the scale is unknown.
    """
    choice(*RANK_SCALES).require("rank-scale", scale)
    full = rank_of(layout)
    if rank is None or rank >= full:
        return Truncation(layout, layout, full, None, 1.0)
    if rank < 1:
        raise ValueError(f"rank must be an integer >= 1, got {rank!r}")
    smaller = Layout(tuple(_cut(tensor, rank) for tensor in layout.tensors))
    kept = components(layout) < rank
    return Truncation(
        layout,
        smaller,
        rank,
        np.flatnonzero(kept).astype(np.int64),
        1.0 if scale == "common" else rank / full,
    )


def _cut(tensor: Tensor, rank: int) -> Tensor:
    axis = _RANK_AXES.get(tensor.role)
    if axis is None:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = min(rank, shape[axis])
    return Tensor(tensor.name, tuple(shape), tensor.dtype, tensor.role)
