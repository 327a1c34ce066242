"""Initial values of A from a seed: both sides compute them, so they need not travel."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import prod

import numpy as np

from flasc_flwr.core.layout import Layout, Role, Tensor, Vector

INITS = ("sent", "shared-seed")
"""Where a client gets the initial A from. ``sent``: downloaded like any other entry.
``shared-seed``: drawn from a seed, and only the difference from it is downloaded."""


@lru_cache(maxsize=8)
def seeded_factors(layout: Layout, seed: int) -> Vector:
    """Draw every A of an adapter from `seed`; all other entries are zero.

    Uniform in ``(-1 / sqrt(fan_in), 1 / sqrt(fan_in))``, as PEFT initialises A. Uses
    the raw stream of a counter-based generator, which numpy keeps stable over versions
    and machines, row by row: an adapter of a lower rank has the first rows of the full
    one.

    Returns
    -------
    NDArray[np.float32], shape (N,)
        Read-only.
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
    # A float32 holds 24 bits exactly.
    bits = (generator.random_raw(tensor.size) >> np.uint64(40)).astype(np.float32)
    unit = (bits + np.float32(0.5)) / np.float32(1 << 23) - np.float32(1)
    return np.asarray(unit / np.float32(fan_in(tensor) ** 0.5), np.float32)


def fan_in(tensor: Tensor) -> int:
    """Return the number of inputs of one output of a tensor; 1 for a bias."""
    return max(1, prod(tensor.shape[1:]))
