"""The fewest bytes that a payload of an adapter needs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.scores import Scoring

_PLAIN = Scoring()


def require_bytes(
    budget: Budget, layout: Layout, values: str, scoring: Scoring = _PLAIN
) -> None:
    """Check that a budget's bytes are enough for at least one entry each way.

    Parameters
    ----------
    budget : Budget
        The budget.
    layout : Layout
        Layout of the adapter, at the client's rank.
    values : str
        Value format.
    scoring : Scoring
        How the entries of downloads are selected.

    Raises
    ------
    ValueError
        If they are not; the message has the fewest that are.
    """
    require_upload_bytes(budget.upload_bytes, layout, values)
    if budget.download_bytes:
        least = _least(layout, values, scoring, carry_layout=True)
        _require("download-bytes", budget.download_bytes, least)


def require_upload_bytes(most: int, layout: Layout, values: str) -> None:
    """Check that a number of bytes is enough for at least one entry of an update.

    Raises
    ------
    ValueError
        If it is not; the message has the fewest that are.
    """
    if most:
        least = _least(layout, values, _PLAIN, carry_layout=False)
        _require("upload-bytes", most, least)


def _require(key: str, most: int, least: int) -> None:
    if most < least:
        raise ValueError(f"{key} must be >= {least} for this adapter, got {most}")


@lru_cache(maxsize=64)
def _least(layout: Layout, values: str, scoring: Scoring, carry_layout: bool) -> int:
    """Return the bytes of the smallest payload; a head that is always kept counts."""
    if not layout.size:
        return 0
    sizes = np.full(layout.size, 0.5, np.float32)
    for tensor, place in layout.slices():
        if scoring.whole_head and tensor.role == Role.HEAD:
            # As many different values as any head may have.
            sizes[place] = np.random.default_rng(0).standard_normal(tensor.size)
    # One entry costs the most at the end of the largest tensor, or of the adapter.
    largest = max(layout.slices(), key=lambda each: each[0].size)[1].stop
    lengths = []
    for end in {largest, layout.size}:
        vector = sizes.copy()
        vector[end - 1] = np.pi
        density = min(1.5 / layout.size, 1.0)
        sparse = scoring.largest(layout, vector, density, density)
        lengths.append(
            len(encode(sparse, values, layout=layout, carry_layout=carry_layout))
        )
    return max(lengths)
