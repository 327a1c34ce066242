"""Downloads: one server vector, as each budget receives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from flasc_flwr.budget import Budget
from flasc_flwr.codec import decode, encode
from flasc_flwr.flower.roster import Participant
from flasc_flwr.flower.wire import CONTROL, Order, array_record, payload_record
from flasc_flwr.layout import Layout, Vector
from flasc_flwr.sparsity import SparseVector


@dataclass(frozen=True, eq=False)
class Download:
    """One encoding of the server vector.

    Attributes
    ----------
    payload : bytes
        The encoded entries of the server vector, with its layout.
    record : ArrayRecord
        The same, as it travels; shared by all messages that carry it.
    kept : float
        Fraction of the entries kept.
    """

    payload: bytes
    record: ArrayRecord
    kept: float


class Downloads:
    """What can be sent of one server vector, made when first needed.

    Parameters
    ----------
    layout : Layout
        Layout of the adapter.
    vector : NDArray[np.float32], shape (N,)
        The dense server vector; not changed here.
    select : Callable[[Vector, float], SparseVector]
        Chooses the entries to send at a density.
    value_format : str
        Value format of the payloads.
    """

    def __init__(
        self,
        layout: Layout,
        vector: Vector,
        select: Callable[[Vector, float], SparseVector],
        value_format: str,
    ) -> None:
        self.layout = layout
        self.vector = vector
        self.value_format = value_format
        self._select = select
        self._made: dict[float, Download] = {}

    @cached_property
    def arrays(self) -> ArrayRecord:
        """The dense server vector as plain arrays."""
        return array_record(self.layout.unflatten(self.vector))

    def at(self, density: float) -> Download:
        """Return the download of a density in (0, 1], encoded once."""
        if density not in self._made:
            sparse = self._select(self.vector, density)
            payload = encode(
                sparse, self.value_format, layout=self.layout, carry_layout=True
            )
            self._made[density] = Download(
                payload, payload_record(payload), sparse.kept / self.layout.size
            )
        return self._made[density]

    def received(self, density: float) -> ArrayRecord:
        """Return what a client decodes: masked, and rounded by the value format."""
        sparse = decode(self.at(density).payload, size=self.layout.size)
        return array_record(self.layout.unflatten(sparse.densify()))

    def messages(
        self,
        cohort: Iterable[Participant],
        message_type: str,
        *,
        server_round: int,
        order_of: Callable[[Budget], Order] | None,
        config: ConfigRecord,
        arrayrecord_key: str,
        configrecord_key: str,
    ) -> list[Message]:
        """Return one message for each participant, one content for each budget.

        `order_of` gives what is asked in return; None asks for no arrays.
        """
        settings = ConfigRecord({**config, "server-round": server_round})
        contents: dict[Budget, RecordDict] = {}
        messages = []
        for participant in cohort:
            budget = participant.budget
            if budget not in contents:
                record = self.at(budget.download_density).record
                contents[budget] = RecordDict(
                    {arrayrecord_key: record, configrecord_key: settings}
                )
                if order_of:
                    contents[budget][CONTROL] = order_of(budget).to_record()
            messages.append(
                Message(
                    contents[budget],
                    participant.node_id,
                    message_type,
                    group_id=str(server_round),
                )
            )
        return messages
