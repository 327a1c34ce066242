"""Downloads: one server vector, as each budget receives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.factors import dead_modules
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.merged import Merged
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.ranks import Truncation
from flasc_flwr.core.received import received_vector
from flasc_flwr.core.sparsity import Positions, SparseVector
from flasc_flwr.flower.clients.roster import Participant
from flasc_flwr.flower.server.records import Records
from flasc_flwr.flower.wire import (
    CONTROL,
    MERGED,
    Order,
    array_record,
    payload_record,
)

Select = Callable[[Layout, Vector, float], SparseVector]
"""Chooses the entries to send of an adapter's vector at a density."""


@dataclass(frozen=True, eq=False)
class Download:
    """One encoding of the server vector.

    Attributes
    ----------
    payload : bytes
        The encoded entries of the server vector, with their layout.
    record : ArrayRecord
        The same, as it travels; shared by all messages that carry it.
    cut : Truncation
        Which components it holds.
    init_seed : int, optional
        Seed of the initial values that the entries are added to.
    """

    payload: bytes
    record: ArrayRecord
    cut: Truncation
    init_seed: int | None

    @cached_property
    def _decoded(self) -> tuple[SparseVector, Vector]:
        return received_vector(self.cut.layout, self.payload, self.init_seed)

    @property
    def start(self) -> Vector:
        """What a client starts from: decoded, masked and rounded, shape (n,)."""
        return self._decoded[1]

    @property
    def support(self) -> Positions:
        """Which entries of the cut adapter it holds."""
        return self._decoded[0].positions

    @property
    def sparse(self) -> SparseVector:
        """The entries kept, rounded, in terms of the whole adapter."""
        return self.cut.pad_sparse(self._decoded[0])

    @property
    def kept(self) -> float:
        """Fraction of the whole adapter's entries kept."""
        return self._decoded[0].kept / self.cut.full.size

    @cached_property
    def dead_modules(self) -> int:
        """How many modules arrive with both factors zero: they cannot train."""
        return dead_modules(self.cut.layout, self.start)


class Downloads:
    """What can be sent of one server vector, made when first needed.

    Parameters
    ----------
    layout : Layout
        Layout of the whole adapter.
    vector : NDArray[np.float32], shape (N,)
        The dense server vector; not changed here.
    merged : Merged
        What was merged into the backbone, which every client needs in full.
    cut : Callable[[int or None], Truncation]
        Cuts the adapter to a rank.
    select : Select
        Chooses the entries to send.
    value_format : str
        Value format of the payloads.
    init_seed : int, optional
        Seed of initial values that clients rebuild; what differs from them is sent.
    """

    def __init__(
        self,
        layout: Layout,
        vector: Vector,
        merged: Merged,
        *,
        cut: Callable[[int | None], Truncation],
        select: Select,
        value_format: str,
        init_seed: int | None,
    ) -> None:
        self.layout = layout
        self.vector = vector
        self._merged = merged
        self._cut = cut
        self._select = select
        self._value_format = value_format
        self._init_seed = init_seed
        self._made: dict[tuple[int, float], Download] = {}

    @cached_property
    def arrays(self) -> ArrayRecord:
        """The dense server vector as plain arrays."""
        return array_record(self.layout.unflatten(self.vector))

    def at(self, budget: Budget) -> Download:
        """Return the download of a budget, encoded once for its rank and density."""
        cut = self._cut(budget.rank)
        key = cut.rank, budget.download_density
        if key not in self._made:
            taken = cut.truncate(self.vector)
            if self._init_seed is not None:
                taken = taken - seeded_factors(cut.layout, self._init_seed)
            sparse = self._select(cut.layout, taken, budget.download_density)
            payload = encode(
                sparse, self._value_format, layout=cut.layout, carry_layout=True
            )
            self._made[key] = Download(
                payload, payload_record(payload), cut, self._init_seed
            )
        return self._made[key]

    def received(self, budget: Budget) -> ArrayRecord:
        """Return what a budget receives, in the shapes of the whole adapter.

        Masked, rounded by the value format, and zero in the components that it
        lacks: the same model as the client's smaller one.
        """
        download = self.at(budget)
        whole = download.cut.pad(download.start)
        return array_record(self.layout.unflatten(whole))

    @cached_property
    def merged(self) -> tuple[ArrayRecord, Merged] | None:
        """What was merged, as it travels and as it arrives; None if nothing was."""
        if not self._merged:
            return None
        layout = Layout.of(self._merged)
        everything = SparseVector.of_dense(layout.flatten(self._merged))
        payload = encode(
            everything, self._value_format, layout=layout, carry_layout=True
        )
        arrived = decode(payload, size=layout.size).densify()
        return payload_record(payload), layout.unflatten(arrived)

    def messages(
        self,
        cohort: Iterable[Participant],
        message_type: str,
        *,
        server_round: int,
        order_of: Callable[[Budget], Order],
        config: ConfigRecord,
        records: Records,
    ) -> list[Message]:
        """Return one message for each participant, one content for each budget.

        `order_of` gives what is asked in return.
        """
        settings = ConfigRecord({**config, "server-round": server_round})
        contents: dict[Budget, RecordDict] = {}
        messages = []
        for participant in cohort:
            budget = participant.budget
            if budget not in contents:
                content = RecordDict(
                    {
                        records.arrayrecord_key: self.at(budget).record,
                        records.configrecord_key: settings,
                    }
                )
                if self.merged:
                    content[MERGED] = self.merged[0]
                if order := order_of(budget).to_record():
                    content[CONTROL] = order
                contents[budget] = content
            messages.append(
                Message(
                    contents[budget],
                    participant.node_id,
                    message_type,
                    group_id=str(server_round),
                )
            )
        return messages
