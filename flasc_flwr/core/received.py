"""What a client starts from: the same on both sides."""

from __future__ import annotations

from flasc_flwr.core.codec import decode
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.sparsity import SparseVector


def start_of(
    layout: Layout, payload: bytes, init_seed: int | None
) -> tuple[SparseVector, Vector]:
    """Return the entries in a payload, and the vector a client starts from.

    Raises
    ------
    PayloadError
        If the payload is defect.
    """
    sparse = decode(payload, size=layout.size)
    start = sparse.densify()
    if init_seed is not None:
        start += seeded_factors(layout, init_seed)
    return sparse, start
