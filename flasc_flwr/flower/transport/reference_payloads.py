"""The payloads that move a reference: all of a difference, or its largest entries."""

from __future__ import annotations

import numpy as np

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.transport.selection import encode_largest
from flasc_flwr.flower.transport.transport_settings import TransportSettings

JUMP = 0.5
"""Largest distance of a reference from the strategy's arrays, relative to their norm.

If a sparse difference would leave it farther away, all of the difference is sent: the
arrays are other ones than before, or one step moved them as far as a new model is away.
"""


def whole_payload(layout: Layout, grid: str, difference: Vector) -> bytes:
    """Return the payload with every entry of a difference that is not zero.

    Parameters
    ----------
    layout : Layout
        Its layout, of size N.
    grid : str
        Value format of the reference's numbers.
    difference : NDArray[np.float32], shape (N,)
        What the reference lacks.
    """
    return encode(top_k(difference, 1.0), grid, layout=layout)


def payload_towards(
    target: Vector, layout: Layout, settings: TransportSettings, difference: Vector
) -> bytes:
    """Return the payload with the largest entries of a difference to a target.

    Parameters
    ----------
    target : NDArray[np.float32], shape (N,)
        The strategy's arrays. If the payload would leave the reference too far from
        them (:data:`JUMP`), it has every entry.
    layout : Layout
        Their layout, of size N.
    settings : TransportSettings
        How arrays are sent.
    difference : NDArray[np.float32], shape (N,)
        `target` minus the reference.
    """
    payload = encode_largest(
        difference,
        layout,
        density=settings.download_density,
        values=settings.value_format,
        most=settings.download_bytes,
        key="download-bytes",
        quota=settings.quota,
    )
    sent = decode(payload, layout.size)
    left = difference.copy()
    left[sent.positions] -= sent.values
    if np.linalg.norm(left) <= JUMP * np.linalg.norm(target):
        return payload
    return whole_payload(layout, settings.grid, difference)
