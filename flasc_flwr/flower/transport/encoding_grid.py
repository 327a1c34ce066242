"""A Flower Grid that encodes the messages it sends and decodes the replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import WARNING
from time import time
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import NodeInfo, Run, log
from flasc_flwr.flower.transport.round_trip import RoundTrip
from flasc_flwr.flower.wire import category


class EncodingGrid(Grid):
    """A grid for strategies that run their own round loop.

    Parameters
    ----------
    grid : Grid
        The grid that sends the messages.
    make_round_trip : Callable[[Iterable[Message], int], RoundTrip]
        Encodes messages. It is given the round that their bytes are counted in.
    """

    def __init__(
        self,
        grid: Grid,
        make_round_trip: Callable[[Iterable[Message], int], RoundTrip],
    ) -> None:
        self._grid = grid
        self._make_round_trip = make_round_trip
        self._round = 0
        self._trips: dict[str, RoundTrip] = {}

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the grid."""
        return getattr(self._grid, name)

    def is_around(self, grid: Grid) -> bool:
        """Return whether this encodes what is sent through a grid."""
        return self._grid is grid

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
        """Return what is known about the nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Encode messages and send them."""
        trip = self._begin(messages)
        ids = list(self._grid.push_messages(trip.messages))
        self._trips |= {i: trip for i in ids}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, decoded."""
        decoded = []
        for reply in self._grid.pull_messages(message_ids):
            trip = self._trips.pop(reply.metadata.reply_to_message_id, None)
            if trip is None:  # a client writes that into its reply itself
                log(WARNING, "Ignored a reply to a message that was not sent")
                continue
            decoded += trip.restore(trip.inspect([reply]))
            trip.taken()
        return decoded

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Encode messages, send them, and return the decoded replies."""
        trip = self._begin(messages)
        replies = self._grid.send_and_receive(trip.messages, timeout=timeout)
        decoded = trip.restore(trip.inspect(replies))
        trip.taken()
        trip.close()
        trip.report()
        return decoded

    def _begin(self, messages: Iterable[Message]) -> RoundTrip:
        """Begin a round trip; each batch with a train message is a new round."""
        self._forget_expired()
        messages = list(messages)
        if any(_asks_for_training(message) for message in messages):
            self._round += 1
        return self._make_round_trip(messages, self._round)

    def _forget_expired(self) -> None:
        """Forget messages that nobody will answer any more: they hold arrays."""
        now = time()
        for message_id, trip in list(self._trips.items()):
            if trip.expires < now:
                trip.close()
                del self._trips[message_id]


def _asks_for_training(message: Message) -> bool:
    return category(message.metadata.message_type) == MessageType.TRAIN
