"""A grid that encodes what is pushed, and decodes what is pulled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import NodeInfo, Run
from flasc_flwr.flower.transport.round_trip import RoundTrip

if TYPE_CHECKING:
    from flasc_flwr.flower.sparse_transport import SparseTransport


class TransportGrid(Grid):
    """A grid for strategies that run a loop of their own.

    Parameters
    ----------
    grid : Grid
        The grid that really sends.
    transport : SparseTransport
        How arrays travel.
    """

    def __init__(self, grid: Grid, transport: SparseTransport) -> None:
        self._grid = grid
        self._transport = transport
        self._round = 0
        self._trips: dict[str, RoundTrip] = {}

    def __getattr__(self, name: str) -> Any:
        """Give whatever else the grid has."""
        return getattr(self._grid, name)

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return self._grid.create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what is known of the nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Encode messages, and send them."""
        trip = self._trip(messages)
        ids = list(self._grid.push_messages(trip.messages))
        self._trips |= {i: trip for i in ids}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come, decoded."""
        replies = []
        for reply in self._grid.pull_messages(message_ids):
            trip = self._trips.pop(reply.metadata.reply_to_message_id)
            replies += trip.restored([trip.open(reply)])
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, encoded, and return the replies to them, decoded."""
        trip = self._trip(messages)
        replies = self._grid.send_and_receive(trip.messages, timeout=timeout)
        restored = trip.restored([trip.open(reply) for reply in replies])
        trip.report()
        return restored

    def _trip(self, messages: Iterable[Message]) -> RoundTrip:
        """Begin an exchange; a new round begins with messages to be trained."""
        messages = list(messages)
        if any(_trains(message) for message in messages):
            self._round += 1
        return self._transport.round_trip(messages, self._round)


def _trains(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN
