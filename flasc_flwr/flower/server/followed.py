"""Downloads that move a reference: what is sent of (server vector - reference)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from logging import WARNING

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.feedback.stream import Compress, Stream
from flasc_flwr.core.fitting import TooFewBytesError, fit_payload
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.ranks import Truncation
from flasc_flwr.core.sparsity import SparseVector, top_k
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.feedback.fleet_memory import FleetMemory
from flasc_flwr.flower.feedback.reminder import Reminder
from flasc_flwr.flower.server.downloads import Download, Selection
from flasc_flwr.flower.wire import payload_record


@dataclass(frozen=True, eq=False)
class FollowedDownload(Download):
    """The newest payload of a stream, and the reference that it leads to.

    Attributes
    ----------
    reference : NDArray[np.float32], shape (n,)
        The reference after this payload.
    stream : Stream
        The stream.
    """

    reference: Vector
    stream: Stream
    _ways: dict[bytes | None, tuple[Reminder, ArrayRecord]] = field(
        default_factory=dict
    )

    @property
    def start(self) -> Vector:
        """What a client starts from: the reference, shape (n,)."""
        if self.init_seed is None:
            return self.reference
        return self.reference + seeded_factors(self.cut.layout, self.init_seed)

    def _decoded(self) -> tuple[SparseVector, Vector]:
        """Return the entries of the newest payload, and the reference after it."""
        return decode(self.payload, self.cut.layout.size), self.start

    def way(self, held: bytes | None) -> tuple[Reminder, ArrayRecord]:
        """Return how a device gets here from the reference that it holds.

        Made and encoded once for all devices that hold the same.
        """
        if held not in self._ways:
            way = self.stream.catch_up(held)
            reminder, data = Reminder(round=0).with_way(way)
            self._ways[held] = reminder, payload_record(data)
        return self._ways[held]


class Following:
    """Makes the downloads of one server vector from the streams of its budgets.

    Parameters
    ----------
    fleet : FleetMemory
        Holds the streams.
    turn : int
        The turn.
    select : Selection
        Selects the entries to send.
    value_format : str
        Value format of the payloads.
    init_seed : int, optional
        Seed of the initial values that references count from.
    """

    def __init__(
        self,
        fleet: FleetMemory,
        turn: int,
        *,
        select: Selection,
        value_format: str,
        init_seed: int | None,
    ) -> None:
        self._fleet = fleet
        self._turn = turn
        self._select = select
        self._value_format = value_format
        self._init_seed = init_seed

    def download(
        self, budget: Budget, cut: Truncation, target: Vector
    ) -> FollowedDownload:
        """Return the download of a budget.

        Its stream has moved once a device is sent it, and not if the server only looks
        at what devices would receive.

        Parameters
        ----------
        budget : Budget
            The budget.
        cut : Truncation
            Which components it has.
        target : NDArray[np.float32], shape (n,)
            The server vector at its rank, counted from the initial values.
        """
        key = cut.rank, budget.download_density, budget.download_bytes
        layout = cut.layout

        def compress(first: bool) -> Compress:
            most = replace(budget, download_density=1.0, download_bytes=0)
            return lambda vector: self._fitted(
                layout, vector, most if first else budget
            )

        stream = self._fleet.moved(key, layout, self._turn, target, compress)
        payload = stream.payloads[-1] if stream.payloads else _nothing(layout)
        return FollowedDownload(
            payload,
            payload_record(payload),
            cut,
            budget.download_density,
            self._init_seed,
            partial(self._fleet.keep, key, stream, self._turn),
            stream.reference.vector,
            stream,
        )

    def _fitted(self, layout: Layout, vector: Vector, budget: Budget) -> bytes:
        density = budget.download_density
        try:
            return fit_payload(
                self._select(layout, vector, density),
                self._value_format,
                layout=layout,
                size=layout.size,
                density=density,
                most=budget.download_bytes,
                key="download-bytes",
            ).payload
        except TooFewBytesError as error:
            # Budgets are checked before: one that is served instead may be too low.
            log(WARNING, "A download has no entries: %s", error)
            return _nothing(layout)


def _nothing(layout: Layout) -> bytes:
    return encode(top_k(np.zeros(layout.size, np.float32), 1.0), layout=layout)
