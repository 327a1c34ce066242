"""All messages of one round: encoded when they are sent, decoded when replies come."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from logging import INFO, WARNING

from flwr.app import Error, Message

from flasc_flwr.core.printable import why
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.compat import ErrorCode, log
from flasc_flwr.flower.transport.encoded_content import (
    EncodedContent,
    TransportSettings,
    encode_content,
)
from flasc_flwr.flower.transport.incoming_reply import (
    IncomingReply,
    ParcelUpdate,
    advice_on,
    check_arrays,
    data_bytes,
    decode_parcels,
    inspect_reply,
)
from flasc_flwr.flower.transport.parallel_map import parallel_map
from flasc_flwr.flower.wire import CONTROL, STYPE, message_bytes, reason_of


class RoundTrip:
    """One exchange of messages with clients.

    Parameters
    ----------
    messages : Iterable[Message]
        What the inner strategy wants to send; not changed.
    settings : TransportSettings
        How arrays are sent.
    server_round : int
        The round that the bytes are counted in.
    traffic : Traffic
        Where the bytes are added.

    Attributes
    ----------
    messages : list[Message]
        What is to be sent instead. Messages that share a content share its encoding.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        settings: TransportSettings,
        *,
        server_round: int,
        traffic: Traffic,
    ) -> None:
        self.messages: list[Message] = []
        self._contents: list[EncodedContent] = []
        self._round = server_round
        self._traffic = traffic
        self._own_traffic = Traffic()
        encoded: dict[tuple[int, str], EncodedContent] = {}
        for message in messages:
            content, message_type = message.content, message.metadata.message_type
            key = id(content), message_type
            if key not in encoded:
                encoded[key] = encode_content(content, message_type, settings)
            # The copy shares the metadata, where the grid notes the message's id.
            travelling = copy.copy(message)
            travelling.content = encoded[key].encoded
            self.messages.append(travelling)
            self._contents.append(encoded[key])
        sizes = message_bytes(self.messages)
        for message, made, size in zip(
            self.messages, self._contents, sizes, strict=True
        ):
            plain_bytes = sum(map(data_bytes, made.original.array_records.values()))
            self._count(message, size, plain_bytes, Direction.DOWN)

    def inspect(self, replies: Iterable[Message]) -> list[IncomingReply]:
        """Return what each reply holds, without decoding it.

        Raises
        ------
        RuntimeError
            If a reply does not belong to this round trip.
        """
        inspected = []
        for reply in replies:
            if not reply.has_error():
                content = self._contents[self._index(reply)]
                try:
                    inspected.append(inspect_reply(reply, content))
                except Exception as error:
                    inspected.append(IncomingReply(reply, error=why(error)))
                continue
            if advice := advice_on(reply.error, self._in_payloads):
                log(WARNING, "Node %d: %s", reply.metadata.src_node_id, advice)
            inspected.append(IncomingReply(reply))
        return inspected

    def decode(
        self, replies: Sequence[IncomingReply]
    ) -> Iterator[tuple[Message, dict[str, ParcelUpdate]]]:
        """Yield each reply with the updates in its parcels, and count its bytes.

        A rejected reply becomes an error, whatever exception reading it raised. The
        reason of an error is cut to one printable line. Arrays that came dense are put
        on those of the inner strategy.
        """
        results = parallel_map(decode_parcels, replies)
        for reply, (size, updates) in zip(replies, results, strict=True):
            message = reply.message
            self._count(message, size, reply.plain_bytes, Direction.UP)
            if not isinstance(updates, str) and not message.has_error():
                try:
                    check_arrays(reply, updates)
                    _put_on_sent(reply)
                except Exception as error:
                    updates = why(error)
            if isinstance(updates, str):
                message, updates = self._rejected(message, updates), {}
            if message.has_error():
                message.error = Error(message.error.code, reason_of(message))
            yield message, updates

    def restore(self, replies: Sequence[IncomingReply]) -> list[Message]:
        """Return replies as the inner strategy is to see them: with dense arrays."""
        messages = []
        for message, updates in self.decode(replies):
            for key, parcel in updates.items():
                arrays = parcel.sent.plus(parcel.update.densify(), parcel.whole)
                message.content[key] = arrays
            messages.append(message)
        return messages

    def report(self) -> None:
        """Log what the exchange cost, after all its replies."""
        if not self.messages:
            return
        asked = len(self.messages)
        came = len(self._own_traffic.sent) - asked
        cost = self._own_traffic.in_words()
        log(INFO, "\t%d messages, %d replies: %s", asked, came, cost)

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Index of each message, by the id that it got when it was sent."""
        return {m.metadata.message_id: i for i, m in enumerate(self.messages)}

    @cached_property
    def _in_payloads(self) -> set[str]:
        """Names of the arrays that clients cannot read without flasc_mod."""
        return {
            tensor.name
            for content in self._contents
            for record in content.sent.values()
            if record.parcel is not None
            for tensor in record.form.layout.tensors
        }

    def _index(self, reply: Message) -> int:
        try:
            return self._indices[reply.metadata.reply_to_message_id]
        except KeyError:
            node = reply.metadata.src_node_id
            raise RuntimeError(
                f"unexpected reply of node {node}: it answers no message of this round"
            ) from None

    def _rejected(self, reply: Message, reason: str) -> Message:
        """Return an error in place of a reply."""
        node = reply.metadata.src_node_id
        log(WARNING, "Rejected the reply of node %d: %s", node, reason)
        error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=reason)
        return Message(error, reply_to=self.messages[self._index(reply)])

    def _count(
        self, message: Message, size: int, plain_bytes: int, direction: Direction
    ) -> None:
        node = message.metadata.dst_node_id
        if direction == Direction.UP:
            node = message.metadata.src_node_id
        payload_bytes = 0
        if message.has_content():
            for record in message.content.array_records.values():
                for array in record.values():
                    if array.stype.startswith(STYPE):
                        payload_bytes += len(array.data)
        sent = Sent(
            round=self._round,
            client=str(node),
            direction=direction,
            payload=payload_bytes,
            message=size,
            plain=plain_bytes,
        )
        self._traffic.record(sent)
        self._own_traffic.record(sent)


def _put_on_sent(reply: IncomingReply) -> None:
    """Put the arrays that came dense on those of the inner strategy."""
    content = reply.message.content
    content.config_records.pop(CONTROL, None)
    for key, sent in reply.dense.items():
        content[key] = sent.plus_training(content.array_records[key])
