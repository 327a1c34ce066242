"""All messages of one round: encoded when they are sent, decoded when replies come."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from logging import INFO, WARNING
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    RecordDict,
)

from flasc_flwr.core.printable import why
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.compat import ErrorCode, log, records_of
from flasc_flwr.flower.transport.encoded_content import (
    EncodedContent,
    TransportSettings,
    encode_content,
    with_memory,
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
from flasc_flwr.flower.transport.run_memory import RunMemory, common_records
from flasc_flwr.flower.transport.sent_record import Following
from flasc_flwr.flower.wire import (
    CONTROL,
    PAYLOAD,
    STYPE,
    category,
    message_bytes,
    reason_of,
)


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
    memory : RunMemory
        What is remembered of the devices.
    whole_round : bool
        Whether these are all messages of a round: what they have in common is then the
        model of this round, even if there is but one.

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
        memory: RunMemory,
        whole_round: bool = True,
    ) -> None:
        self.messages: list[Message] = []
        self._contents: list[EncodedContent] = []
        self._followed: list[Mapping[str, Following]] = []
        self._round = server_round
        self._traffic = traffic
        self._own_traffic = Traffic()
        self._memory = memory
        messages = list(messages)
        self._remembering = memory.begin(
            m.metadata.dst_node_id for m in messages if _is_training(m)
        )
        self._memory_round = memory.round
        common = common_records((m.content for m in messages), whole_round)
        encoded: dict[tuple[int, str], EncodedContent] = {}
        for message in messages:
            content, message_type = message.content, message.metadata.message_type
            key = id(content), message_type
            if key not in encoded:
                follow = partial(memory.follow, _is_training(message), common)
                encoded[key] = encode_content(content, message_type, settings, follow)
            # The copy shares the metadata, where the grid notes the message's id.
            travelling = copy.copy(message)
            travelling.content, followed = self._own_content(message, encoded[key])
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
            records = records_of(made.original, ArrayRecord)
            plain_bytes = sum(map(data_bytes, records.values()))
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
            self._memory.waiting.discard(reply.metadata.src_node_id)
            if not reply.has_error():
                index = self._index(reply)
                content = self._contents[index]
                inspected.append(self._inspect(reply, content, self._followed[index]))
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
        self._memory.drop()
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
            self._note(message, updates)
            yield message, updates

    def restore(self, replies: Sequence[IncomingReply]) -> list[Message]:
        """Return replies as the inner strategy is to see them: with dense arrays."""
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
        """Note that replies that have not come will not be taken."""
        self._memory.waiting -= {m.metadata.dst_node_id for m in self.messages}

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
            if record.is_encoded
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

    def _inspect(
        self, reply: Message, content: EncodedContent, followed: Mapping[str, Following]
    ) -> IncomingReply:
        """Return what a reply holds, and note what it says about references."""
        try:
            inspected = inspect_reply(reply, content)
            if inspected.error is None:
                self._memory.heard(reply, followed)
            for key in inspected.untouched:
                self._memory.remarks.say_untouched(key)
        except Exception as error:
            return IncomingReply(reply, error=why(error))
        return inspected

    def _own_content(
        self, message: Message, made: EncodedContent
    ) -> tuple[RecordDict, Mapping[str, Following]]:
        """Return what travels to the device of a message, and the ways in it."""
        node, followed = message.metadata.dst_node_id, made.followed
        if _is_training(message) and node not in self._remembering:
            alone = {key: following.alone for key, following in followed.items()}
            return with_memory(made.encoded, {}, alone), {}
        control: dict[str, Any] = {}
        ways = {}
        asked = made.sent if made.expects_parcels else {}
        for key, reminder in self._memory.reminders(node, followed, asked).items():
            if key in followed:
                held = self._memory.held(node, key)
                reminder, ways[key] = followed[key].way(reminder, held)
            reminder.add_to(control, key)
        return with_memory(made.encoded, control, ways), followed

    def _note(self, message: Message, updates: Mapping[str, ParcelUpdate]) -> None:
        """Note the payloads of a reply, to confirm them to a device that remembers."""
        node = message.metadata.src_node_id
        for key, update in updates.items():
            self._memory.remarks.travelled(key, update.sent.form.layout, update.update)
            if node in self._remembering:
                self._memory.collect(node, key, self._memory_round, update.payload)

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
            for record in records_of(message.content, ArrayRecord).values():
                if PAYLOAD in record and record[PAYLOAD].stype.startswith(STYPE):
                    payload_bytes += len(record[PAYLOAD].data)
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
    if CONTROL in records_of(content, ConfigRecord):
        del content[CONTROL]
    records = records_of(content, ArrayRecord)
    for key, sent in reply.dense.items():
        content[key] = sent.plus_training(records[key])
    for key, sent in reply.same.items():
        content[key] = ArrayRecord(dict(sent.received))


def _is_training(message: Message) -> bool:
    return category(message.metadata.message_type) == MessageType.TRAIN
