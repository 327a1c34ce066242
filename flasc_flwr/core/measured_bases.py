"""Bases of cores from the clients' first gradients: their layout, and how they add up.

Fed-SB (arXiv 2502.15436) takes them from one gradient of the whole data set. Here each
client k factors its own step ``D_k = -sign(G_k)``, the first one of AdamW, into
``U_k S_k V_k^T``. The server averages the products: ``T = sum_k p_k U_k S_k V_k^T``.
The bases are the largest singular vectors of T, and cores begin at zero between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from flasc_flwr.core.codec import decode, encode, split
from flasc_flwr.core.cores import seeded_bases
from flasc_flwr.core.factors import LoraModule, Matrix, lora_modules
from flasc_flwr.core.layout import Arrays, Layout, Role, Vector
from flasc_flwr.core.sparsity import SparseVector

Sides = Mapping[str, tuple[int, int]]
"""(out, in) of the modules that have cores, by the core's name in the layout."""

_EXACT = ("float32", "bfloat16", "float16")
_NOISE = 1e-6
"""Singular values below this fraction of the largest are those of rounding."""

_TOLERANCE = 1.01
"""Formats of 8 significant bits round by up to 1/256."""


def with_bases(layout: Layout, sides: Sides) -> Layout:
    """Return a layout with B (out, R) and A (R, in) in place of each core.

    Parameters
    ----------
    layout : Layout
        The adapter, with cores of R components.
    sides : Sides
        Sides of their modules.

    Raises
    ------
    ValueError
        If the sides of a core are missing, or smaller than its R.
    """
    tensors = []
    for tensor in layout.tensors:
        if tensor.role != Role.CORE:
            tensors.append(tensor)
            continue
        out, inputs = sides.get(tensor.name, (0, 0))
        rank = tensor.shape[0]
        if rank > min(out, inputs):
            raise ValueError(
                f"sides of the module of {tensor.name!r} must be >= {rank}, the "
                f"components of its core, got {(out, inputs)}"
            )
        module = tensor.name.removesuffix("core")
        for role, shape in ((Role.B, (out, rank)), (Role.A, (rank, inputs))):
            name = f"{module}{role.value}.weight"
            tensors.append(replace(tensor, name=name, shape=shape, role=role))
    return Layout(tuple(tensors))


def require_share(layout: Layout, update: SparseVector) -> None:
    """Check that one client's factors are no larger than those of a matrix of signs.

    ``||U S||_F`` and ``||U S V^T||_F`` are at most ``sqrt(out in)``, and rows of V^T
    have length 1: no client counts for more than its weight.

    Parameters
    ----------
    layout : Layout
        The adapter with bases in place of cores, of size N.
    update : SparseVector
        The client's factors.

    Raises
    ------
    ValueError
        If they are larger.
    """
    vector = update.densify()
    for module in lora_modules(layout):
        b, a = module.factors(vector)
        most = float(np.sqrt(len(b) * a.shape[1]))
        # Of a sum of r products of one direction, that is up to sqrt(r) times as much.
        product = np.sqrt(max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))))
        for what, size, bound in (
            ("norm of U S", np.linalg.norm(b), most),
            ("length of a row of V^T", np.linalg.norm(a, axis=1).max(), 1.0),
            ("norm of U S V^T", product, most),
        ):
            if not size <= _TOLERANCE * bound:
                raise ValueError(f"{what} must be <= {bound:.6g}, got {size:.6g}")


def orthonormal(layout: Layout, vector: Vector) -> Arrays:
    """Return the bases of all modules from their mean products B A.

    Where a product has a lower rank than the bases, they are completed at random.

    Parameters
    ----------
    layout : Layout
        The adapter with bases in place of cores, of size N.
    vector : NDArray[np.float32], shape (N,)
        Factors as :func:`~.factors.truncated_svd` returns them.

    Returns
    -------
    Arrays
        B with orthonormal columns and A with orthonormal rows, float32, by name.
    """
    bases: Arrays = {}
    for module in lora_modules(layout):
        b, a = _completed(module, vector)
        bases[module.b.name] = np.ascontiguousarray(b, np.float32)
        bases[module.a.name] = np.ascontiguousarray(a, np.float32)
    return bases


def _completed(module: LoraModule, vector: Vector) -> tuple[Matrix, Matrix]:
    b, a = module.factors(vector)
    sizes = np.linalg.norm(b, axis=0)
    # In descending order: those of noise are the last.
    kept = int(np.count_nonzero(sizes > _NOISE * sizes.max()))
    sides = len(b), a.shape[1]
    more_b, more_a = seeded_bases(module.name, sides, module.rank, 0)
    found = b[:, :kept] / sizes[:kept]
    return _extended(found, more_b), _extended(a[:kept].T, more_a.T).T


def _extended(found: Matrix, more: Matrix) -> Matrix:
    """Return as many orthonormal columns as `more` has, of which some are given."""
    kept, rank = found.shape[1], more.shape[1]
    q, _ = np.linalg.qr(np.concatenate([found, more], axis=1))
    return np.concatenate([found, q[:, kept:rank]], axis=1)


def basis_format(values: str) -> str:
    """Return the value format that bases travel in.

    That of the run where each value is rounded for itself, else ``bfloat16``. So the
    leading columns that a device of a lower rank has are equal to all others'.
    """
    most, _ = split(values)
    return most if most in _EXACT else "bfloat16"


def encode_bases(layout: Layout, vector: Vector, values: str) -> bytes:
    """Return the payload of bases, shape (n,), in a format of :func:`basis_format`."""
    dense = SparseVector.of_dense(vector)
    return encode(dense, values, layout=layout, carry_layout=True)


def rounded(bases: Arrays, values: str) -> Arrays:
    """Return bases as everyone has them who decodes their payload."""
    layout = Layout.of(bases)
    payload = encode_bases(layout, layout.flatten(bases), values)
    return layout.unflatten(decode(payload, size=layout.size).densify())
