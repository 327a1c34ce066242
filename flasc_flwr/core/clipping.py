"""Clipping: scale an update down to a maximum L2 norm."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector


def l2_norm(values: Vector) -> float:
    """Return the L2 norm of values, computed in float64."""
    return float(np.linalg.norm(values.astype(np.float64)))


def clip_to_norm(values: Vector, max_norm: float) -> Vector:
    """Scale values down to an L2 norm of `max_norm`; return smaller ones unchanged.

    ``values / max(1, ||values|| / max_norm)``: Abadi et al., arXiv 1607.00133,
    Algorithm 1, and FLASC's code. The norm of the result, in float64, never exceeds
    `max_norm`.

    Parameters
    ----------
    values : NDArray[np.float32], shape (k,)
        A dense update, or the values of a sparse one.
    max_norm : float
        Largest norm allowed, above 0.

    Raises
    ------
    ValueError
        If the norm is not finite.
    """
    norm = l2_norm(values)
    if not isfinite(norm):
        raise ValueError(f"an update of norm {norm} cannot be clipped")
    if norm <= max_norm:
        return values
    # Rounding to float32 could raise the norm; rounding toward zero cannot.
    clipped = _toward_zero(values.astype(np.float64) * (max_norm / norm))
    while l2_norm(clipped) > max_norm:
        clipped = np.nextafter(clipped, np.float32(0))
    return clipped


def _toward_zero(values: NDArray[np.float64]) -> Vector:
    """Round float64 values to float32, toward zero."""
    rounded = values.astype(np.float32)
    too_large = np.abs(rounded.astype(np.float64)) > np.abs(values)
    return np.where(too_large, np.nextafter(rounded, np.float32(0)), rounded)
