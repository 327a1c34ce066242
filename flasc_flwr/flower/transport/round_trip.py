"""One exchange with clients: messages are encoded, and replies are decoded."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from logging import INFO, WARNING

from flwr.app import ArrayRecord, Error, Message, MessageType

from flasc_flwr.core.printable import why
from flasc_flwr.core.traffic import Direction, Traffic
from flasc_flwr.flower.compat import ErrorCode, log, records_of, set_metadata
from flasc_flwr.flower.error_reason import reason_of
from flasc_flwr.flower.transport.advice import advice_on
from flasc_flwr.flower.transport.device_content import device_content
from flasc_flwr.flower.transport.encoded_content import EncodedContent, encode_content
from flasc_flwr.flower.transport.incoming_reply import (
    IncomingReply,
    ParcelUpdate,
    check_arrays,
    decode_parcels,
    inspect_reply,
    put_on_sent,
)
from flasc_flwr.flower.transport.parallel_map import parallel_map
from flasc_flwr.flower.transport.run_memory import Place, RunMemory, common_records
from flasc_flwr.flower.transport.sent_record import Following
from flasc_flwr.flower.transport.transport_settings import TransportSettings
from flasc_flwr.flower.transport.trip_traffic import TripTraffic
from flasc_flwr.flower.wire import category, message_bytes


class RoundTrip:
    """The messages of one exchange, and their replies.

    Parameters
    ----------
    messages : Iterable[Message]
        What the inner strategy sends; not changed.
    settings : TransportSettings
        How arrays are sent.
    server_round : int
        The round that the bytes are counted in.
    traffic : Traffic
        Where the bytes are added.
    memory : RunMemory
        What is remembered of the devices.
    whole_round : bool
        Whether these are all messages of a round. What they have in common is then the
        model of the round, even if there is only one message.

    Attributes
    ----------
    messages : list[Message]
        What is sent instead. Messages that share a content share its encoding.
    expires : float
        When the last of them is no longer valid, in seconds since 1970.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        settings: TransportSettings,
        *,
        server_round: int,
        traffic: Traffic,
        memory: RunMemory,
        whole_round: bool = True,
    ) -> None:
        self.messages: list[Message] = []
        self._contents: list[EncodedContent] = []
        self._followed: list[Mapping[str, Following]] = []
        self._answered: set[int] = set()
        self._traffic = TripTraffic(server_round, traffic)
        self._memory = memory
        messages = list(messages)
        asked = [message.metadata for message in messages]
        self.expires = max((m.created_at + m.ttl for m in asked), default=0.0)
        self._waiting = {
            index: _places(message)
            for index, message in enumerate(messages)
            if _is_training(message)
        }
        used = memory.begin(self._waiting.values())
        self._remembering = dict(zip(self._waiting, used, strict=True))
        self._memory_round = memory.round
        common = common_records((m.content for m in messages), whole_round)
        encoded: dict[tuple[int, str], EncodedContent] = {}
        for index, message in enumerate(messages):
            content, message_type = message.content, message.metadata.message_type
            key = id(content), message_type
            if key not in encoded:
                follow = partial(memory.follow, _is_training(message), common)
                encoded[key] = encode_content(content, message_type, settings, follow)
            # The copy shares the metadata, where the grid notes the message's id.
            travelling = copy.copy(message)
            node = message.metadata.dst_node_id
            travelling.content, followed = device_content(
                encoded[key],
                memory,
                node,
                remembers=self._remembering.get(index, True),
            )
            self._followed.append(followed)
            self.messages.append(travelling)
            self._contents.append(encoded[key])
        for made in encoded.values():
            for name, sent in made.sent.items():
                memory.remarks.name_not_finite(name, sent.not_finite)
        sizes = message_bytes(self.messages)
        for message, made, size in zip(
            self.messages, self._contents, sizes, strict=True
        ):
            plain = made.plain_bytes
            self._traffic.count(message, Direction.DOWN, size=size, plain=plain)

    def inspect(self, replies: Iterable[Message]) -> list[IncomingReply]:
        """Return what each reply holds, without decoding it.

        A reply that answers none of the messages, or one for the second time, is left
        out: a client writes into its reply itself which one it answers, and who sends
        it.

        Raises
        ------
        RuntimeError
            If no reply answers one of the messages: they are of another round.
        """
        replies = list(replies)
        inspected = []
        for reply in replies:
            index = self._indices.get(reply.metadata.reply_to_message_id)
            if index is not None:
                self._memory.answered(self._waiting.pop(index, ()))
            if reply.has_error():
                if advice := advice_on(reply.error, self._in_payloads):
                    log(WARNING, "Node %d: %s", reply.metadata.src_node_id, advice)
                inspected.append(IncomingReply(reply))
            elif index is None or index in self._answered:
                log(WARNING, "Ignored a reply of %s", _stray(reply))
            else:
                self._answered.add(index)
                inspected.append(self._inspect(reply, index))
        if replies and not inspected:
            raise RuntimeError(f"unexpected reply of {_stray(replies[0])}")
        return inspected

    def decode(
        self, replies: Sequence[IncomingReply]
    ) -> Iterator[tuple[Message, dict[str, ParcelUpdate]]]:
        """Yield each reply with the updates in its parcels, and count its bytes.

        If reading a reply raises any exception, the reply is rejected: it becomes an
        error. Reasons of errors are cut to one printable line. Arrays that came dense
        are replaced by those of the inner strategy plus their change.
        """
        self._memory.drop()
        results = parallel_map(decode_parcels, replies)
        for reply, (size, updates) in zip(replies, results, strict=True):
            message = reply.message
            self._traffic.count(
                message, Direction.UP, size=size, plain=reply.plain_bytes
            )
            if not isinstance(updates, str) and not message.has_error():
                try:
                    check_arrays(reply, updates)
                    put_on_sent(reply)
                except Exception as error:
                    updates = why(error)
            if isinstance(updates, str):
                message, updates = self._rejected(message, updates), {}
            if message.has_error():
                message.error = Error(message.error.code, reason_of(message))
            self._note(message, updates)
            yield message, updates

    def restore(self, replies: Sequence[IncomingReply]) -> list[Message]:
        """Return replies as the inner strategy sees them: with dense arrays."""
        messages = []
        for message, updates in self.decode(replies):
            for key, parcel in updates.items():
                arrays = parcel.sent.plus(parcel.update.densify(), parcel.arrays)
                message.content[key] = arrays
            messages.append(message)
        return messages

    def taken(self) -> None:
        """Note that the inner strategy has taken the replies that were decoded."""
        self._memory.confirm()

    def close(self) -> None:
        """Note that replies that have not come yet will not be taken."""
        while self._waiting:
            self._memory.answered(self._waiting.popitem()[1])

    def report(self) -> None:
        """Log the bytes of the exchange, after all its replies."""
        if self.messages:
            log(INFO, "\t%s", self._traffic.in_words(len(self.messages)))

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Index of each message, by the id that the grid gave it."""
        return {m.metadata.message_id: i for i, m in enumerate(self.messages)}

    @cached_property
    def _in_payloads(self) -> set[str]:
        """Names of the arrays that clients cannot read without flasc_mod."""
        return {name for content in self._contents for name in content.in_payloads}

    def _index(self, reply: Message) -> int:
        return self._indices[reply.metadata.reply_to_message_id]

    def _inspect(self, reply: Message, index: int) -> IncomingReply:
        """Return what a reply holds, and note what it says about references."""
        sender = reply.metadata.src_node_id
        node = self.messages[index].metadata.dst_node_id
        try:
            if sender != node:
                # Its bytes count for the node that was asked, which knows the message.
                set_metadata(reply, "src_node_id", node)
                raise ValueError(f"the reply names node {sender} as its sender")
            inspected = inspect_reply(reply, self._contents[index])
            if inspected.error is None:
                self._memory.heard(reply, self._followed[index])
            for key in inspected.untouched:
                self._memory.remarks.say_untouched(key)
        except Exception as error:
            return IncomingReply(reply, error=why(error))
        return inspected

    def _note(self, message: Message, updates: Mapping[str, ParcelUpdate]) -> None:
        """Note the payloads of a reply, to confirm them to a device that remembers."""
        node = message.metadata.src_node_id
        for key, update in updates.items():
            self._memory.remarks.travelled(key, update.sent.form.layout, update.update)
            if self._remembering.get(self._index(message), True):
                self._memory.collect(node, key, self._memory_round, update.payload)

    def _rejected(self, reply: Message, reason: str) -> Message:
        """Return an error in place of a reply."""
        node = reply.metadata.src_node_id
        log(WARNING, "Rejected the reply of node %d: %s", node, reason)
        error = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=reason)
        return Message(error, reply_to=self.messages[self._index(reply)])


def _is_training(message: Message) -> bool:
    return category(message.metadata.message_type) == MessageType.TRAIN


def _places(message: Message) -> list[Place]:
    """Return the memories of a message's node for the records that it is sent."""
    node = message.metadata.dst_node_id
    return [(node, key) for key in records_of(message.content, ArrayRecord)]


def _stray(reply: Message) -> str:
    return (
        f"node {reply.metadata.src_node_id}: it answers no message of this round, or "
        "one that was answered before"
    )
