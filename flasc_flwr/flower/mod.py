"""The client mod: decodes what comes in, encodes what goes out."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flasc_flwr.core.clipping import clipped_densely
from flasc_flwr.core.codec import encode, read_layout
from flasc_flwr.core.layout import Arrays, Layout, Role, Vector
from flasc_flwr.core.ranks import rank_of, truncation
from flasc_flwr.core.received import start_of
from flasc_flwr.core.sparsity import Positions, SparseVector, top_k
from flasc_flwr.flower.transport.client import run_client_app
from flasc_flwr.flower.transport.parcel import DOWNLOAD, is_parcel
from flasc_flwr.flower.wire import (
    CONTROL,
    INTRODUCE,
    RANK,
    Order,
    array_record,
    arrays_of,
    holds_payload,
    payload_of,
    payload_record,
)

OWN_SETTINGS = ("download-density", "upload-density", "lora-rank", "tier")
"""What a device may set of its own budget in its ``--node-config``."""


def flasc_mod(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Let a ClientApp take part with sparse messages, untouched.

    The app behind this mod sees plain dense arrays. What it returns is compared
    with what it received, and the largest entries of the difference travel back:
    ``top_k(trained - received)``, where `received` is the masked download, so that
    an entry which was not downloaded counts from zero (FLASC's code: ``x0 - x``).

    Messages without a payload pass unchanged.

    Parameters
    ----------
    message : Message
        The incoming message.
    context : Context
        The node's context; its ``node_config`` may set the node's own budget.
    call_next : ClientAppCallable
        The next mod, or the app.

    Returns
    -------
    Message
        The reply.

    Raises
    ------
    PayloadError
        If the download cannot be decoded.
    ValueError
        If the reply's arrays do not fit those received, or hold NaN or infinity.
    """
    content = message.content
    control = content.config_records.pop(CONTROL, None)
    if control and INTRODUCE in control:
        return _introduce(message, context)
    order = Order.from_record(control) if control else Order()
    records = content.array_records
    if order.sparse or any(is_parcel(r, DOWNLOAD) for r in records.values()):
        return run_client_app(message, context, call_next, order)
    received: dict[str, _Received] = {}
    for key, record in records.items():
        if holds_payload(record):
            received[key] = _receive(payload_of(record), order)
            content[key] = array_record(received[key].arrays())
    if order.density is None:
        return call_next(message, context)
    token = _TRAINABLE.set(received)
    try:
        reply = call_next(message, context)
    finally:
        _TRAINABLE.reset(token)
    if reply.has_error():
        return reply
    for key, record in reply.content.array_records.items():
        if key not in received:
            raise ValueError(
                f"the reply's arrays {key!r} answer none of those received: "
                f"{', '.join(received) or 'none'}"
            )
        trained = arrays_of(record)
        own = received[key].at_rank_of(trained)
        if own.rank < received[key].rank:
            reply.content[CONTROL] = ConfigRecord({RANK: own.rank})
        reply.content[key] = payload_record(_upload(own, trained, order))
    return reply


def trainable_entries(key: str = "arrays") -> dict[str, NDArray[np.bool_]] | None:
    """Return which entries the running train function may change.

    Methods that freeze a part of the adapter need the help of the ClientApp: it has to
    hold the other entries still while it trains. What it changes of them all the same
    is not sent.

    Parameters
    ----------
    key : str
        Key of the ArrayRecord in the message.

    Returns
    -------
    dict[str, NDArray[np.bool_]] or None
        For each array its mask, or None where all entries may change.
    """
    received = _TRAINABLE.get()
    return received[key].trainable() if received else None


@dataclass(frozen=True, eq=False)
class _Received:
    """A download: its layout, the vector it stands for, and what of it may change."""

    layout: Layout
    start: Vector
    support: Positions
    entries: NDArray[np.bool_] | None

    @property
    def rank(self) -> int:
        return rank_of(self.layout)

    def arrays(self) -> Arrays:
        return self.layout.unflatten(self.start)

    def trainable(self) -> dict[str, NDArray[np.bool_]] | None:
        if self.entries is None:
            return None
        return {
            tensor.name: self.entries[place].reshape(tensor.shape)
            for tensor, place in self.layout.slices()
        }

    def at_rank_of(self, trained: Arrays) -> _Received:
        """Return the part of this that has the rank of `trained`.

        A client may give up its last components (HetLoRA's self-pruning).
        """
        ranks = [
            trained[tensor.name].shape[0]
            for tensor in self.layout.tensors
            if tensor.role == Role.A and tensor.name in trained
        ]
        rank = min(ranks, default=self.rank)
        if not 0 < rank < self.rank:
            return self
        cut = truncation(self.layout, rank)
        entries = None if self.entries is None else self.entries[cut.places]
        return _Received(
            cut.layout, cut.take(self.start), cut.narrow(self.support), entries
        )

    def update(self, trained: Arrays) -> Vector:
        """Return trained minus received, zero where nothing may change."""
        update = self.layout.flatten(trained) - self.start
        return update if self.entries is None else np.where(self.entries, update, 0)


def _upload(received: _Received, trained: Arrays, order: Order) -> bytes:
    """Return what is sent back of an app's arrays."""
    update = received.update(trained)
    if order.clip_norm is not None:
        update = clipped_densely(update, order.clip_norm)
    if order.on_support:
        # The server knows where: no positions, and no layout, as it is not whole.
        values = update if order.density == 1 else update[received.support]
        return encode(SparseVector.of_dense(values), order.value_format)
    assert order.density is not None
    kept = top_k(update, order.density)
    return encode(kept, order.value_format, layout=received.layout)


def _receive(payload: bytes, order: Order) -> _Received:
    layout = read_layout(payload)
    sparse, start = start_of(layout, payload, order.init_seed)
    entries = None
    if not order.trains.everything:
        entries = order.trains.entries(layout, sparse.positions)
    return _Received(layout, start, sparse.positions, entries)


_TRAINABLE: ContextVar[dict[str, _Received] | None] = ContextVar(
    "trainable", default=None
)


def _introduce(message: Message, context: Context) -> Message:
    """Answer who this node is and what it may use."""
    settings = context.node_config
    answer = ConfigRecord({k: settings[k] for k in OWN_SETTINGS if k in settings})
    # Node ids are drawn anew for every simulation; the partition is what makes a
    # simulated client the same client in the next run.
    if "partition-id" in settings:
        answer["name"] = str(settings["partition-id"])
    return Message(RecordDict({CONTROL: answer}), reply_to=message)
