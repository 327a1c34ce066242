"""Small cores: what is trained between two fixed bases, ``W0 + s sum_g B_g H_g A_g``.

A core is the stack of its heads H_g, each of shape (r, r), below each other: a matrix
of shape (R, r) for R = heads * r components. Head g stands between r columns of B and r
rows of A. One head is Fed-SB (arXiv 2502.15436), several are RAVAN (arXiv 2506.05568).
The product is linear in H, so the mean of cores is the core of the mean product.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

CORE_BASES = ("seed", "weights", "gradient")
"""Where the fixed bases come from. ``seed``: orthonormal, drawn from the run's seed on
both sides. ``weights``: the largest singular vectors of the frozen weight itself
(LoRA-XS, arXiv 2405.17604). Neither is sent. ``gradient``: singular vectors of the
clients' first gradients (Fed-SB), which are sent (:mod:`.measured_bases`)."""


def is_core(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape may be a stack of square heads."""
    return len(shape) == 2 and shape[1] > 0 and shape[0] % shape[1] == 0 < shape[0]


def cut_core(shape: tuple[int, ...], rank: int) -> tuple[int, int]:
    """Return the shape of a core cut to its first `rank` components.

    Whole heads; below one head, its leading block of rank x rank.
    """
    total, size = shape
    size = min(size, rank)
    return min(total, rank) // size * size, size


def core_components(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the component, 0 to R - 1, that each entry of a core belongs to.

    That is component j if clients of rank j + 1 have the entry and those of rank j do
    not: in the first head the larger of row and column, in others the head's last one.

    Returns
    -------
    NDArray[np.int64], shape `shape`
    """
    total, size = shape
    row, column = np.arange(total)[:, None], np.arange(size)[None, :]
    last = (row // size + 1) * size - 1
    return np.where(row < size, np.maximum(row, column), last)


def seeded_bases(
    name: str, shape: tuple[int, int], rank: int, seed: int
) -> tuple[Matrix, Matrix]:
    """Draw the bases of a module: B with orthonormal columns, A with orthonormal rows.

    They are orthogonal across heads, too. From the raw stream of a counter-based
    generator, which numpy keeps stable over versions and machines.

    Parameters
    ----------
    name : str
        The module's name.
    shape : tuple[int, int]
        (out, in) of its weight.
    rank : int
        Number of components, at most the smaller side.
    seed : int
        The run's seed.

    Returns
    -------
    NDArray[np.float64], shape (out, rank), and NDArray[np.float64], shape (rank, in)
        B and A.
    """
    out, inputs = shape
    b = _orthonormal(f"{seed}/{name}/core B", out, rank)
    a = _orthonormal(f"{seed}/{name}/core A", inputs, rank)
    return b, a.T


def _orthonormal(key: str, rows: int, rank: int) -> Matrix:
    digest = hashlib.sha256(key.encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    bits = generator.random_raw(rows * rank) >> np.uint64(11)
    unit = bits.astype(np.float64) / float(1 << 52) - 1.0
    q, r = np.linalg.qr(unit.reshape(rows, rank))
    # A QR decomposition leaves signs open. Fixed, all machines have the same.
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0), np.float64)


def as_factors(
    b: NDArray[Any], core: NDArray[Any], a: NDArray[Any]
) -> tuple[Matrix, Matrix]:
    """Return LoRA factors of rank R with the product ``sum_g B_g H_g A_g``.

    Parameters
    ----------
    b : NDArray, shape (out, R)
    core : NDArray, shape (R', r)
        The heads; those that a smaller core lacks count as zero.
    a : NDArray, shape (R, in)

    Returns
    -------
    NDArray[np.float64], shape (out, R), and NDArray[np.float64], shape (R, in)
        B with each head's columns multiplied by H_g, and A itself.
    """
    size = core.shape[1]
    columns = np.zeros(b.shape, np.float64)
    for start in range(0, core.shape[0], size):
        place = slice(start, start + size)
        columns[:, place] = b[:, place].astype(np.float64) @ core[place]
    return columns, a.astype(np.float64)
