"""The payload with the largest entries of a vector."""

from __future__ import annotations

from functools import partial

from flasc_flwr.core.fitting import fit_payload
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.scores import Scoring


def encode_largest(
    vector: Vector,
    layout: Layout,
    *,
    density: float,
    values: str,
    most: int,
    key: str,
    quota: str,
    carry_layout: bool = False,
) -> bytes:
    """Return the payload with the largest entries of a vector.

    Parameters
    ----------
    vector : NDArray[np.float32], shape (N,)
        The vector.
    layout : Layout
        Its layout.
    density : float
        Largest fraction of the entries to send, in (0, 1].
    values : str
        Value format.
    most : int
        Most bytes of the payload; 0 is no limit.
    key : str
        The setting that `most` is from, for the error.
    quota : str
        Where entries compete: one of :data:`~flasc_flwr.core.methods.scores.QUOTAS`.
        If the bytes are too few for an entry of each tensor, those of all tensors
        compete.
    carry_layout : bool
        Whether the payload carries the layout.

    Raises
    ------
    TooFewBytesError
        If not even one entry fits.
    """
    return fit_payload(
        partial(Scoring(quota=quota).largest, layout, vector),
        values,
        layout=layout,
        size=layout.size,
        density=density,
        most=most,
        key=key,
        carry_layout=carry_layout,
    ).payload
