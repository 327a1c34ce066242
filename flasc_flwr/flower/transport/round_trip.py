"""One exchange of a SparseTransport: what is sent, and what the replies mean."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from logging import INFO, WARNING

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.core.traffic import Direction, Sent, Traffic
from flasc_flwr.flower.compat import ErrorCode, log
from flasc_flwr.flower.transport.ahead import ahead
from flasc_flwr.flower.transport.answer import counterpart
from flasc_flwr.flower.transport.base import Base
from flasc_flwr.flower.transport.dispatch import Dispatch, Sparsity
from flasc_flwr.flower.transport.parcel import UPLOAD, is_parcel, open_upload
from flasc_flwr.flower.wire import CONTROL, STYPE, UNCHANGED, message_bytes

ADD_THE_MOD = (
    "add flasc_mod to the ClientApp, before its other mods: "
    "ClientApp(mods=[flasc_mod, ...])"
)


@dataclass(frozen=True, eq=False)
class Update:
    """What a parcel holds: an update of a base, and arrays that replace its own."""

    base: Base
    sparse: SparseVector
    whole: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Opened:
    """A reply that has been looked at, and not yet decoded.

    Attributes
    ----------
    reply : Message
        The reply as it came.
    parcels, plain : dict[str, Base]
        Its records that are trained arrays, as a parcel or as they are, by key; each
        with its base.
    error : PayloadError, optional
        Why it cannot be used.
    """

    reply: Message
    parcels: dict[str, Base] = field(default_factory=dict)
    plain: dict[str, Base] = field(default_factory=dict)
    error: PayloadError | None = None


class RoundTrip:
    """One exchange of messages.

    Parameters
    ----------
    messages : Iterable[Message]
        What the inner strategy wants to send. Stays as it is.
    sparsity : Sparsity
        How their arrays are to travel.
    server_round : int
        Where the bytes are counted.
    traffic : Traffic
        Where the bytes are added.

    Attributes
    ----------
    messages : list[Message]
        What is to be sent instead. Equal contents are encoded once.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        sparsity: Sparsity,
        *,
        server_round: int,
        traffic: Traffic,
    ) -> None:
        self.messages: list[Message] = []
        self._round = server_round
        self._traffic = traffic
        self._own_traffic = Traffic()
        self._failures = 0
        self._dispatches: list[Dispatch] = []
        made: dict[tuple[int, str], Dispatch] = {}
        for message in messages:
            content, kind = message.content, message.metadata.message_type
            key = id(content), kind
            if key not in made:
                made[key] = Dispatch.of(content, kind, sparsity)
            # The copy shares the metadata, where the grid notes the message's id.
            travelling = copy.copy(message)
            travelling.content = made[key].travelling
            self.messages.append(travelling)
            self._dispatches.append(made[key])
        sizes = message_bytes(self.messages)
        for message, dispatch, size in zip(
            self.messages, self._dispatches, sizes, strict=True
        ):
            plain = sum(map(_data, dispatch.original.array_records.values()))
            self._count(message, size, plain, Direction.DOWN)

    def open(self, reply: Message) -> Opened:
        """Look at a reply, without decoding it."""
        if reply.has_error():
            if advice := _advice(reply.error):
                log(WARNING, "Node %d: %s", reply.metadata.src_node_id, advice)
            return Opened(reply)
        dispatch = self._dispatches[self._index(reply)]
        said = reply.content.config_records.get(CONTROL, ConfigRecord())
        left = said.get(UNCHANGED, [])
        opened = Opened(reply)
        for key, record, base in _trained(reply, dispatch):
            if base is None:
                continue
            if not dispatch.asked or (isinstance(left, list) and key in left):
                opened.plain[key] = base
            elif is_parcel(record, UPLOAD):
                opened.parcels[key] = base
            else:
                error = f"its arrays did not go through flasc_mod: {ADD_THE_MOD}"
                return Opened(reply, error=PayloadError(error))
        return opened

    def decoded(
        self, opened: Sequence[Opened]
    ) -> Iterator[tuple[Message, dict[str, Update]]]:
        """Yield each reply with the updates in its parcels, and count its bytes.

        Errors pass unchanged. A reply that cannot be used becomes one.
        """
        for one, (size, updates) in zip(opened, ahead(_decode, opened), strict=True):
            reply = one.reply
            self._count(reply, size, self._plain(reply), Direction.UP)
            if isinstance(updates, PayloadError):
                reply, updates = self._refused(reply, updates), {}
            self._failures += reply.has_error()
            if reply.has_content():
                reply.content.config_records.pop(CONTROL, None)
                for key, base in one.plain.items():
                    trained = reply.content.array_records[key]
                    reply.content[key] = base.moved_to(trained)
            yield reply, updates

    def restored(self, opened: Sequence[Opened]) -> list[Message]:
        """Return replies as the inner strategy is to see them: with plain arrays."""
        restored = []
        for reply, updates in self.decoded(opened):
            for key, update in updates.items():
                moved = update.base.moved(update.sparse.densify(), update.whole)
                reply.content[key] = moved
            restored.append(reply)
        return restored

    def report(self) -> None:
        """Log what the exchange cost, once all its replies are there."""
        if not self.messages:
            return
        asked = len(self.messages)
        came = len(self._own_traffic.sent) - asked
        words = self._own_traffic.in_words()
        log(INFO, "\t%d messages, %d replies: %s", asked, came, words)
        needed = any(dispatch.needs_the_mod for dispatch in self._dispatches)
        if needed and came and self._failures == came:
            log(WARNING, "No reply can be used. If not yet done, %s", ADD_THE_MOD)

    @cached_property
    def _indices(self) -> dict[str, int]:
        """Where each message stands, by the id that it got when it was sent."""
        return {m.metadata.message_id: i for i, m in enumerate(self.messages)}

    def _index(self, reply: Message) -> int:
        try:
            return self._indices[reply.metadata.reply_to_message_id]
        except KeyError:
            node = reply.metadata.src_node_id
            raise RuntimeError(
                f"the reply of node {node} answers no message of this round"
            ) from None

    def _plain(self, reply: Message) -> int:
        """Return the bytes of a reply's arrays as Flower would have sent them."""
        if reply.has_error():
            return 0
        dispatch = self._dispatches[self._index(reply)]
        return sum(
            _data(base.record if base else record)
            for _, record, base in _trained(reply, dispatch)
        )

    def _refused(self, reply: Message, error: PayloadError) -> Message:
        """Return an error in place of a reply."""
        node = reply.metadata.src_node_id
        log(WARNING, "The reply of node %d is not used: %s", node, error)
        reason = Error(code=ErrorCode.MOD_FAILED_PRECONDITION, reason=str(error))
        return Message(reason, reply_to=self.messages[self._index(reply)])

    def _count(self, message: Message, size: int, plain: int, way: Direction) -> None:
        node = message.metadata.dst_node_id
        if way == Direction.UP:
            node = message.metadata.src_node_id
        arrays: list[Array] = []
        if message.has_content():
            for record in message.content.array_records.values():
                arrays += record.values()
        payloads = [array for array in arrays if array.stype.startswith(STYPE)]
        sent = Sent(
            round=self._round,
            client=str(node),
            direction=way,
            payload=sum(len(array.data) for array in payloads),
            message=size,
            plain=plain,
        )
        self._traffic.record(sent)
        self._own_traffic.record(sent)


def _trained(
    reply: Message, dispatch: Dispatch
) -> Iterator[tuple[str, ArrayRecord, Base | None]]:
    """Yield the reply's records with what each is relative to, if anything."""
    records = reply.content.array_records
    for key, record in records.items():
        yield key, record, counterpart(dispatch.bases, key, len(records))


def _decode(opened: Opened) -> tuple[int, dict[str, Update] | PayloadError]:
    """Return the size of a reply, and what is in its parcels or wrong with it."""
    (size,) = message_bytes([opened.reply])
    updates = {}
    try:
        if opened.error:
            raise opened.error
        for key, base in opened.parcels.items():
            parcel = opened.reply.content.array_records[key]
            updates[key] = Update(base, *open_upload(parcel, base.form))
    except PayloadError as error:
        return size, error
    return size, updates


def _advice(error: Error) -> str | None:
    """Return what to do about a client's error, as far as it can be told."""
    reason = error.reason or ""
    if STYPE in reason:
        return f"its ClientApp cannot read payloads: {ADD_THE_MOD}"
    if "expects exactly one ConfigRecord" in reason:
        return f"flasc_mod has to come first of its mods: {ADD_THE_MOD}"
    return None


def _data(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())
