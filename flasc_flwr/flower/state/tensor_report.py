"""The report by tensor: which fraction was kept, and its bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from flasc_flwr.core.codec import encode, split
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.core.traffic import Direction, Traffic


class Kept:
    """Counts the entries of each tensor in a round's updates.

    Parameters
    ----------
    layout : Layout
        Layout of the whole adapter.
    """

    def __init__(self, layout: Layout) -> None:
        self._entries = np.array([tensor.size for tensor in layout.tensors])
        self._sums = np.zeros(len(self._entries))
        self._updates = 0
        self._layout = layout

    def add(self, update: SparseVector) -> None:
        """Count an update, in terms of the whole adapter."""
        self._sums += self._layout.counts(update.positions)
        self._updates += 1

    def fractions(self) -> list[float | None]:
        """Return the mean fraction kept of each tensor; None without an update."""
        if not self._updates:
            return [None] * len(self._entries)
        kept = self._sums / (self._updates * np.maximum(self._entries, 1))
        return [float(fraction) for fraction in kept]


def by_tensor(
    layout: Layout,
    download: SparseVector,
    payload: int,
    value_format: str,
    uploads: Kept,
    traffic: Traffic,
    round: int,
) -> dict[str, Any]:
    """Return the content of ``tensors.json``.

    Parameters
    ----------
    layout : Layout
        Layout of the whole adapter.
    download : SparseVector
        What a client receives now, in terms of the whole adapter.
    payload : int
        Its bytes when encoded.
    value_format : str
        Value format of the payloads.
    uploads : Kept
        The updates of the last round.
    traffic : Traffic
        The run's messages.
    round : int
        Round whose uploads are reported.

    Returns
    -------
    dict[str, Any]
        ``tensors``: name, shape, entries, ``kept_down`` of the download, ``kept_up``
        as a mean over the updates, and ``bits_down``: bits per parameter of the
        tensor's part of the download, encoded separately and without a header.
        ``bits_per_parameter``: 8 times the bytes of a payload divided by N, each way;
        null for uploads if there were none.
    """
    counts = layout.counts(download.positions)
    sent_up = [
        sent
        for sent in traffic.rounds.get(round, {}).values()
        if sent.direction is Direction.UP
    ]
    payloads = sum(sent.vectors for sent in sent_up)
    mean_up = sum(sent.payload for sent in sent_up) / payloads if payloads else None
    ends = np.cumsum(counts)
    return {
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "entries": tensor.size,
                "kept_down": int(count) / max(tensor.size, 1),
                "kept_up": kept_up,
                "bits_down": _bits(
                    download,
                    slice(end - count, end),
                    place,
                    split(value_format)[tensor.role is Role.HEAD],
                ),
            }
            for (tensor, place), count, end, kept_up in zip(
                layout.slices(), counts, ends, uploads.fractions(), strict=True
            )
        ],
        "bits_per_parameter": {
            "down": 8 * payload / layout.size,
            "up": None if mean_up is None else 8 * mean_up / layout.size,
        },
    }


def _bits(sparse: SparseVector, kept: slice, place: slice, value_format: str) -> float:
    """Return the bits per parameter of one tensor's entries, without a header."""
    size: int = place.stop - place.start
    if not size:
        return 0.0
    part = SparseVector(size, sparse.positions[kept] - place.start, sparse.values[kept])
    nothing = SparseVector(size, part.positions[:0], part.values[:0])
    header = len(encode(nothing, value_format))
    return 8.0 * (len(encode(part, value_format)) - header) / size
