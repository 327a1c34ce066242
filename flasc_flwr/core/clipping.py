"""Clipping: an update scaled down to a norm that it may have."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector
from flasc_flwr.core.sparsity import SparseVector


def norm_of(update: SparseVector) -> float:
    """Return the L2 norm of an update."""
    return float(np.linalg.norm(update.values.astype(np.float64)))


def clipped_densely(update: Vector, bound: float) -> Vector:
    """Return a whole update scaled down to a norm of `bound`, shape (N,).

    As :func:`clipped`, before its largest entries are chosen.
    """
    return clipped(SparseVector.of_dense(update), bound).values


def clipped(update: SparseVector, bound: float) -> SparseVector:
    """Return an update scaled down to a norm of `bound`, or as it is if it is smaller.

    ``delta / max(||delta|| / bound, 1)``, as in FLASC's code. The norm of the result,
    in float64, is never above the bound.

    Raises
    ------
    ValueError
        If the update is not finite.
    """
    norm = norm_of(update)
    if not isfinite(norm):
        raise ValueError(f"the update has the norm {norm}: it cannot be clipped")
    if norm <= bound:
        return update
    # float32 values may round up; toward zero they cannot.
    values = _toward_zero(update.values.astype(np.float64) * (bound / norm))
    scaled = SparseVector(update.size, update.positions, values)
    while norm_of(scaled) > bound:
        values = np.nextafter(values, np.float32(0))
        scaled = SparseVector(update.size, update.positions, values)
    return scaled


def _toward_zero(values: NDArray[np.float64]) -> Vector:
    rounded = values.astype(np.float32)
    too_large = np.abs(rounded.astype(np.float64)) > np.abs(values)
    return np.where(too_large, np.nextafter(rounded, np.float32(0)), rounded)
