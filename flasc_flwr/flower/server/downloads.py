"""Downloads: the server vector as each budget receives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from logging import WARNING

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.codec import decode, encode, read_layout
from flasc_flwr.core.factors import dead_modules
from flasc_flwr.core.fitting import Fitted, Select, TooFewBytesError, fit_payload
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.merged import Merged
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.ranks import Truncation
from flasc_flwr.core.received import received_vector
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.wire import array_record, payload_record

Selection = Callable[[Layout, Vector, float], Select]
"""Takes an adapter's layout, its vector and the largest density; returns what selects
the entries to send at that density and below."""


@dataclass(frozen=True, eq=False)
class Download:
    """One encoding of the server vector.

    Attributes
    ----------
    payload : bytes
        The encoded entries of the server vector, with their layout.
    record : ArrayRecord
        The same as it travels; shared by all messages that carry it.
    cut : Truncation
        Which components it has.
    density : float
        The density that it was selected at: the budget's, or one whose payload fits
        into the budget's bytes.
    init_seed : int, optional
        Seed of the initial values that the entries are added to.
    keep : Callable[[], None]
        Called once a device is sent it: what later downloads depend on is kept then,
        and not if the server only looks at what devices would receive.
    """

    payload: bytes
    record: ArrayRecord
    cut: Truncation
    density: float
    init_seed: int | None
    keep: Callable[[], None]

    @property
    def start(self) -> Vector:
        """What a client starts from: masked and rounded, shape (n,)."""
        sparse, start = self._decoded()
        # Noted now, so that it is not decoded again for that.
        vars(self).setdefault("_noted", self._note(sparse, start))
        return start

    @cached_property
    def support(self) -> Positions:
        """Which entries of the cut adapter it has."""
        return self._decoded()[0].positions

    @property
    def sparse(self) -> SparseVector:
        """The entries kept, rounded, in terms of the whole adapter."""
        return self.cut.pad_sparse(self._decoded()[0])

    @property
    def kept(self) -> float:
        """Fraction of the whole adapter's entries kept."""
        return self._noted[0] / self.cut.full.size

    @property
    def dead_modules(self) -> int:
        """Number of modules that arrive with both factors zero: they cannot train."""
        return self._noted[1]

    @cached_property
    def _noted(self) -> tuple[int, int]:
        """How many entries are kept, and the number of dead modules."""
        return self._note(*self._decoded())

    def _note(self, sparse: SparseVector, start: Vector) -> tuple[int, int]:
        return sparse.kept, dead_modules(self.cut.layout, start)

    def _decoded(self) -> tuple[SparseVector, Vector]:
        """Return the entries, and what a client starts from.

        Decoded each time: as long as they were kept, they would take as much memory as
        the server vector and more, for each budget.
        """
        return received_vector(self.cut.layout, self.payload, self.init_seed)


Follow = Callable[[Budget, Truncation, Vector], Download]
"""Makes a budget's download of the server vector, cut to its rank and counted from the
initial values."""


class Downloads:
    """What is sent of one server vector: selected and encoded when first needed.

    Parameters
    ----------
    layout : Layout
        Layout of the whole adapter.
    vector : NDArray[np.float32], shape (N,)
        The dense server vector; not changed here.
    merged : Merged
        What was merged into the backbone; every client needs all of it.
    cut : Callable[[int or None], Truncation]
        Cuts the adapter to a rank.
    select : Selection
        Selects the entries to send.
    value_format : str
        Value format of the payloads.
    init_seed : int, optional
        Seed of initial values that clients rebuild; the difference to them is sent.
    keep : Callable[[int, float], None]
        Keeps what was selected for downloads of an adapter's size and a density.
    follow : Follow, optional
        Makes downloads that build on what devices hold (default: they do not).
    """

    def __init__(
        self,
        layout: Layout,
        vector: Vector,
        merged: Merged,
        *,
        cut: Callable[[int | None], Truncation],
        select: Selection,
        value_format: str,
        init_seed: int | None,
        keep: Callable[[int, float], None],
        follow: Follow | None = None,
    ) -> None:
        self.layout = layout
        self.vector = vector
        self._merged = merged
        self._cut = cut
        self._select = select
        self._value_format = value_format
        self._init_seed = init_seed
        self._keep = keep
        self._follow = follow
        self._made: dict[tuple[int, float, int], Download] = {}

    @property
    def arrays(self) -> ArrayRecord:
        """The dense server vector as plain arrays."""
        return self.plain(self.vector)

    def at(self, budget: Budget) -> Download:
        """Return the download of a budget, encoded once for its rank and limits."""
        cut = self._cut(budget.rank)
        key = cut.rank, budget.download_density, budget.download_bytes
        if key not in self._made:
            taken = cut.truncate(self.vector)
            if self._init_seed is not None:
                taken = taken - seeded_factors(cut.layout, self._init_seed)
            make = self._follow or self._masked
            self._made[key] = make(budget, cut, taken)
        return self._made[key]

    def _masked(self, budget: Budget, cut: Truncation, taken: Vector) -> Download:
        """Return what a budget receives of a vector, masked, whatever came before."""
        made = self._fitted(cut.layout, taken, budget)
        record = payload_record(made.payload)
        keep = partial(self._keep, cut.layout.size, budget.download_density)
        return Download(made.payload, record, cut, made.density, self._init_seed, keep)

    def _fitted(self, layout: Layout, vector: Vector, budget: Budget) -> Fitted:
        """Return the most of a vector that fits into a budget."""
        values, density = self._value_format, budget.download_density
        try:
            return fit_payload(
                self._select(layout, vector, density),
                values,
                layout=layout,
                size=layout.size,
                density=density,
                most=budget.download_bytes,
                key="download-bytes",
                carry_layout=True,
            )
        except TooFewBytesError as error:
            # Budgets are checked before. One that is served instead may have another
            # rank, with a layout that is a few bytes longer.
            log(WARNING, "A download has no entries: %s", error)
            nothing = top_k(np.zeros_like(vector), density)
            payload = encode(nothing, values, layout=layout, carry_layout=True)
            return Fitted(density / 2, nothing, payload)  # below 1: masked

    def received(self, budget: Budget) -> ArrayRecord:
        """Return what a budget receives, in the shapes of the whole adapter.

        Masked, rounded by the value format, and zero in the components that the budget
        lacks: the same model as the client's smaller one.
        """
        return self.plain(self.whole(budget))

    def whole(self, budget: Budget) -> Vector:
        """Return what a budget receives, as :meth:`received`, as one vector (N,)."""
        download = self.at(budget)
        return download.cut.pad(download.start)

    def plain(self, vector: Vector) -> ArrayRecord:
        """Return a vector of the whole adapter as plain arrays, which are copies."""
        return array_record(self.layout.views(vector))

    @cached_property
    def _merged_payload(self) -> bytes | None:
        if not self._merged:
            return None
        layout = Layout.of(self._merged)
        return encode(
            SparseVector.of_dense(layout.flatten(self._merged)),
            self._value_format,
            layout=layout,
            carry_layout=True,
        )

    @cached_property
    def merged_record(self) -> ArrayRecord | None:
        """What was merged into the backbone, as it travels; None if nothing was."""
        payload = self._merged_payload
        return None if payload is None else payload_record(payload)

    @cached_property
    def merged(self) -> Merged:
        """What was merged into the backbone, as clients receive it: rounded."""
        payload = self._merged_payload
        if payload is None:
            return {}
        layout = read_layout(payload)
        return layout.unflatten(decode(payload, size=layout.size).densify())
