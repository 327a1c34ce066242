"""The LoRA factors B and A of each module, and their product without computing it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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

    def as_matrices(self, b: NDArray[Any], a: NDArray[Any]) -> tuple[Matrix, Matrix]:
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


def truncated_svd(
    b: Matrix, a: Matrix, rank: int, *, energy: float = 1.0
) -> tuple[Matrix, Matrix]:
    """Return the best approximation of ``b @ a`` of at most a given rank.

    With ``U S V^T = b @ a``: B = U S and A = V^T, as in FlexLoRA, arXiv 2402.11505.
    Computed from the SVD of a matrix no larger than the factors, never from the product
    of shape (out, in) where that is larger: tall factors are replaced by their QR
    decompositions, which takes half the time of their SVDs (FLoRIST, arXiv 2506.09199).

    Parameters
    ----------
    b : NDArray[np.float64], shape (out, R)
    a : NDArray[np.float64], shape (R, in)
    rank : int
        Number of components kept; there are at most min(out, in, R).
    energy : float
        Fraction of ``||b @ a||_F^2``, in (0, 1], at which fewer are kept: the fewest
        that have that much (FLoRIST's threshold).

    Returns
    -------
    NDArray[np.float64], shape (out, rank), and NDArray[np.float64], shape (rank, in)
        B and A: components in descending order, rows of A orthonormal.
    """
    left, b_core = _tall_as_qr(b)
    right, a_core = _tall_as_qr(a.T)
    u, s, vt = np.linalg.svd(b_core @ a_core.T, full_matrices=False)
    rank = min(rank, len(s))
    if energy < 1:
        captured = np.cumsum(s**2)
        rank = min(rank, 1 + int(np.searchsorted(captured, energy * captured[-1])))
    columns, rows = u[:, :rank] * s[:rank], vt[:rank]
    columns = columns if left is None else left @ columns
    rows = rows if right is None else rows @ right.T
    # An SVD leaves signs open. Fixed, equal products give equal factors.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    signs = np.where(largest[:, 0] < 0, -1.0, 1.0)
    return columns * signs, rows * signs[:, None]


def _tall_as_qr(matrix: Matrix) -> tuple[Matrix | None, Matrix]:
    """Return Q and R; no Q and the matrix itself if it is not tall."""
    rows, columns = matrix.shape
    if rows <= columns:
        return None, matrix
    q, r = np.linalg.qr(matrix)
    return q, r


def ridge_inverse(gram: Matrix, ridge: float) -> Matrix:
    """Return ``(gram + lambda I)^-1``, or its pseudoinverse if there is no inverse.

    Parameters
    ----------
    gram : NDArray[np.float64], shape (r, r)
        ``M M^T`` for the r rows of a matrix M.
    ridge : float
        lambda in multiples of the mean squared norm of a row, at least 0.
    """
    size = len(gram)
    shifted = gram + ridge * np.trace(gram) / max(1, size) * np.eye(size)
    return np.linalg.pinv(shifted, hermitian=True)
