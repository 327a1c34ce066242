"""Thin factors: B A of LoRA modules, computed without the dense product."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Role, Tensor, Vector

Matrix = NDArray[np.float64]

_A = re.compile(r"(lora_(?:embedding_)?)A(?=[._]|$)")


@dataclass(frozen=True)
class Module:
    """One adapted module: its name, and its two factors' places in the vector.

    Convolutions are seen as matrices: A is (r, in), B is (out, r).
    """

    name: str
    a: Tensor
    a_place: slice
    b: Tensor
    b_place: slice

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.a.shape[0]

    def factors(self, vector: Vector) -> tuple[Matrix, Matrix]:
        """Return B of shape (out, r) and A of shape (r, in), as float64."""
        a = vector[self.a_place].reshape(self.rank, -1)
        b = vector[self.b_place].reshape(-1, self.rank)
        return b.astype(np.float64), a.astype(np.float64)


@lru_cache(maxsize=16)
def modules(layout: Layout) -> tuple[Module, ...]:
    """Return the adapted modules of an adapter.

    Raises
    ------
    ValueError
        If an A has no B of its rank, which is looked for under A's name.
    """
    places = {tensor.name: (tensor, place) for tensor, place in layout.slices()}
    found = []
    for tensor, place in layout.slices():
        if tensor.role != Role.A:
            continue
        partner = _A.sub(r"\1B", tensor.name)
        b, b_place = places.get(partner, (None, place))
        if b is None or b.role != Role.B or b.shape[1] != tensor.shape[0]:
            raise ValueError(f"{tensor.name!r} has no B of its rank by its side")
        name = _A.split(tensor.name)[0].rstrip("._")
        found.append(Module(name, tensor, place, b, b_place))
    return tuple(found)


def dead_modules(layout: Layout, vector: Vector) -> int:
    """Count the modules whose A and B are zero everywhere.

    Neither factor of such a module has a gradient: a client that receives it cannot
    train it.
    """
    return sum(
        not vector[m.a_place].any() and not vector[m.b_place].any()
        for m in modules(layout)
    )


def product_norm(layout: Layout, vector: Vector) -> float:
    """Return ``||B A||_F`` over all modules, from the thin factors.

    ``||B A||_F^2 = sum((B^T B) * (A A^T))``, in O((in + out) r^2).
    """
    square = 0.0
    for module in modules(layout):
        b, a = module.factors(vector)
        square += float(np.sum((b.T @ b) * (a @ a.T)))
    return float(np.sqrt(max(square, 0.0)))


def best_factors(b: Matrix, a: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Return the best approximation of ``b @ a`` of a rank.

    QR of the thin factors, and a singular value decomposition of the small core: the
    dense product, out x in, is never made. All singular values go into B (FlexLoRA,
    arXiv 2402.11505).

    Parameters
    ----------
    b : Matrix, shape (out, R)
    a : Matrix, shape (R, in)
    rank : int
        Number of components kept, at most; there are never more than
        min(out, in, R).

    Returns
    -------
    Matrix, shape (out, rank), and Matrix, shape (rank, in)
        The rows of A are orthonormal, the components in descending order.
    """
    left, b_core = np.linalg.qr(b)
    right, a_core = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(b_core @ a_core.T)
    rank = min(rank, len(s))
    rows = vt[:rank] @ right.T
    # Signs are free; fixed ones make equal products give equal factors.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    signs = np.where(largest[:, 0] < 0, -1.0, 1.0)
    return left @ (u[:, :rank] * (s[:rank] * signs)), rows * signs[:, None]
