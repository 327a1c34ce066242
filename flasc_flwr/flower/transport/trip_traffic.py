"""The bytes of one exchange, counted message by message."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message

from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.wire import PAYLOAD, STYPE


class TripTraffic:
    """Counts the bytes of one exchange, and adds them to those of the run.

    Parameters
    ----------
    server_round : int
        The round that the bytes are counted in.
    of_run : Traffic
        Where they are added.
    """

    def __init__(self, server_round: int, of_run: Traffic) -> None:
        self._round = server_round
        self._of_run = of_run
        self._own = Traffic()

    def count(
        self, message: Message, direction: Direction, *, size: int, plain: int
    ) -> None:
        """Count one message.

        Parameters
        ----------
        message : Message
            The message as it travels.
        direction : Direction
            Its direction.
        size : int
            Bytes of the serialized message.
        plain : int
            Bytes of the same values as Flower's plain arrays.
        """
        metadata = message.metadata
        is_reply = direction == Direction.UP
        node = metadata.src_node_id if is_reply else metadata.dst_node_id
        sent = Sent(
            round=self._round,
            client=str(node),
            direction=direction,
            payload=_payload_bytes(message),
            message=size,
            plain=plain,
        )
        self._of_run.record(sent)
        self._own.record(sent)

    def in_words(self, asked: int) -> str:
        """Return the counts as text, given the number of messages to clients."""
        came = len(self._own.sent) - asked
        return f"{asked} messages, {came} replies: {self._own.in_words()}"


def data_bytes(record: ArrayRecord) -> int:
    """Return the size of a record's arrays, in bytes."""
    return sum(len(array.data) for array in record.values())


def _payload_bytes(message: Message) -> int:
    if not message.has_content():
        return 0
    return sum(
        len(record[PAYLOAD].data)
        for record in records_of(message.content, ArrayRecord).values()
        if PAYLOAD in record and record[PAYLOAD].stype.startswith(STYPE)
    )
