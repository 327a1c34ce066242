"""A vector of one rank as a vector of another: common components keep their values."""

from __future__ import annotations

import numpy as np

from flasc_flwr.core.layout import Layout, Vector


def reshaped(vector: Vector, old: Layout, new: Layout) -> Vector:
    """Return a vector of one layout in another layout.

    Tensors are matched by name and role. Along each axis the first entries that both
    have keep their values; all other entries are 0.

    Parameters
    ----------
    vector : NDArray[np.float32], shape (n,)
        The vector, in the old layout.
    old, new : Layout
        The layouts, of sizes n and m.

    Returns
    -------
    NDArray[np.float32], shape (m,)
        The vector in the new layout.
    """
    result = np.zeros(new.size, np.float32)
    places = {tensor.name: (tensor, place) for tensor, place in old.slices()}
    for tensor, place in new.slices():
        if tensor.name not in places:
            continue
        before, source = places[tensor.name]
        if before.role != tensor.role or len(before.shape) != len(tensor.shape):
            continue
        common = tuple(
            slice(min(a, b)) for a, b in zip(before.shape, tensor.shape, strict=True)
        )
        values = vector[source].reshape(before.shape)
        result[place].reshape(tensor.shape)[common] = values[common]
    return result
