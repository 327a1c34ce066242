"""The vector that a client receives, computed alike by client and server."""

from __future__ import annotations

import numpy as np

from flasc_flwr.core.codec import PayloadError, decode
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Arrays, Layout, Vector
from flasc_flwr.core.sparsity import SparseVector


def received_vector(
    layout: Layout, payload: bytes, init_seed: int | None
) -> tuple[SparseVector, Vector]:
    """Decode a download to the vector that a client trains from.

    Parameters
    ----------
    layout : Layout
        Layout of the client's adapter, of size n.
    payload : bytes
        The download.
    init_seed : int or None
        Seed of the initial values that the entries are added to; None if they are 0.

    Returns
    -------
    SparseVector and NDArray[np.float32], shape (n,)
        The entries in the payload, and the vector.

    Raises
    ------
    PayloadError
        If the payload is corrupt.
    """
    sparse = decode(payload, size=layout.size)
    vector = sparse.densify()
    if init_seed is not None:
        vector += seeded_factors(layout, init_seed)
    return sparse, vector


def received_arrays(layout: Layout, vector: Vector) -> Arrays:
    """Return a received vector as the arrays that a ClientApp sees.

    They share its memory where dtypes agree.

    Raises
    ------
    PayloadError
        If a value is too large for the dtype of its array.
    """
    with np.errstate(over="ignore"):
        arrays = layout.views(vector)
    for name, array in arrays.items():
        # A finite float32 is finite in the other dtypes.
        if array.dtype == np.float16 and not np.isfinite(array).all():
            raise PayloadError(f"array {name!r} has a value too large for float16")
    return arrays
