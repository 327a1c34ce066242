"""The LoRA factors B and A of each module, and their product without computing it."""

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
class LoraModule:
    """One adapted module: its name, and where its factors lie in the vector.

    The factors of a convolution are treated as matrices: A is (r, in), B is (out, r).
    """

    name: str
    a: Tensor
    a_place: slice
    b: Tensor
    b_place: slice

    @property
    def rank(self) -> int:
        """r, the number of components."""
        return self.a.shape[0]

    def factors(self, vector: Vector) -> tuple[Matrix, Matrix]:
        """Return B of shape (out, r) and A of shape (r, in), as float64."""
        return self.as_matrices(vector[self.b_place], vector[self.a_place])

    def as_matrices(self, b: Vector, a: Vector) -> tuple[Matrix, Matrix]:
        """Return B and A from their entries; the same shapes as :meth:`factors`."""
        return (
            b.reshape(-1, self.rank).astype(np.float64),
            a.reshape(self.rank, -1).astype(np.float64),
        )


@lru_cache(maxsize=16)
def lora_modules(layout: Layout) -> tuple[LoraModule, ...]:
    """Return the adapted modules of an adapter, in layout order.

    Raises
    ------
    ValueError
        If an A has no B of the same name and rank.
    """
    places = {tensor.name: (tensor, place) for tensor, place in layout.slices()}
    found = []
    for tensor, place in layout.slices():
        if tensor.role != Role.A:
            continue
        partner = _A.sub(r"\1B", tensor.name)
        b, b_place = places.get(partner, (None, place))
        if b is None or b.role != Role.B or b.shape[1] != tensor.shape[0]:
            raise ValueError(f"{tensor.name!r} has no B of the same name and rank")
        name = _A.split(tensor.name)[0].rstrip("._")
        found.append(LoraModule(name, tensor, place, b, b_place))
    return tuple(found)


def dead_modules(layout: Layout, vector: Vector) -> int:
    """Count the modules whose A and B are both zero.

    Neither factor of such a module has a gradient: a client that receives it cannot
    train it.
    """
    return sum(
        not vector[m.a_place].any() and not vector[m.b_place].any()
        for m in lora_modules(layout)
    )


def product_norm(layout: Layout, vector: Vector) -> float:
    """Return ``||B A||_F`` over all modules.

    ``||B A||_F^2 = sum((B^T B) * (A A^T))``, in O((in + out) r^2) per module.
    """
    square = 0.0
    for module in lora_modules(layout):
        b, a = module.factors(vector)
        square += float(np.sum((b.T @ b) * (a @ a.T)))
    return float(np.sqrt(max(square, 0.0)))


def truncated_svd(b: Matrix, a: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Return the best approximation of ``b @ a`` of at most a given rank.

    With ``U S V^T = b @ a``: B = U S and A = V^T, as in FlexLoRA, arXiv 2402.11505.
    Computed from QR decompositions of both factors and the SVD of the small matrix
    between them, never from the dense product of shape (out, in).

    Parameters
    ----------
    b : NDArray[np.float64], shape (out, R)
    a : NDArray[np.float64], shape (R, in)
    rank : int
        Number of components kept; there are at most min(out, in, R).

    Returns
    -------
    NDArray[np.float64], shape (out, rank), and NDArray[np.float64], shape (rank, in)
        B and A: components in descending order, rows of A orthonormal.
    """
    left, b_core = np.linalg.qr(b)
    right, a_core = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(b_core @ a_core.T)
    rank = min(rank, len(s))
    rows = vt[:rank] @ right.T
    # An SVD leaves signs open. Fixed, equal products give equal factors.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    signs = np.where(largest[:, 0] < 0, -1.0, 1.0)
    return left @ (u[:, :rank] * (s[:rank] * signs)), rows * signs[:, None]
