"""Initial factors from a seed: what both sides can build, and need not send."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from flasc_flwr.core.layout import Layout, Role, Tensor, Vector

INITS = ("sent", "shared-seed")
"""Where a client has the initial A from: downloaded like any other entry, or rebuilt
from a seed, such that only what differs from it travels."""


@lru_cache(maxsize=8)
def seeded_factors(layout: Layout, seed: int) -> Vector:
    """Return an adapter whose every A is drawn from `seed`, and all else is zero.

    Uniform in ``(-1 / sqrt(fan_in), 1 / sqrt(fan_in))``, PEFT's own distribution.
    Drawn from the raw stream of a counter-based generator, which numpy keeps the
    same over versions and machines, and row by row: an adapter of a smaller rank
    has the first rows of a larger one.

    Returns
    -------
    NDArray[np.float32], shape (N,)
        Not to be written to.
    """
    vector = np.zeros(layout.size, np.float32)
    for tensor, place in layout.slices():
        if tensor.role == Role.A:
            vector[place] = _uniform(tensor, seed)
    vector.flags.writeable = False
    return vector


def _uniform(tensor: Tensor, seed: int) -> Vector:
    digest = hashlib.sha256(f"{seed}/{tensor.name}".encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    # 24 bits fill a float32 exactly.
    bits = (generator.random_raw(tensor.size) >> np.uint64(40)).astype(np.float32)
    unit = (bits + np.float32(0.5)) / np.float32(1 << 23) - np.float32(1)
    return np.asarray(unit / np.float32(fan_in(tensor) ** 0.5), np.float32)


def fan_in(tensor: Tensor) -> int:
    """Return how many inputs feed one output of a tensor; 1 for a bias."""
    return max(1, tensor.size // tensor.shape[0]) if len(tensor.shape) > 1 else 1
