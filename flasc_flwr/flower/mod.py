"""The client mod: decodes what comes in, encodes what goes out."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from flasc_flwr.codec import decode, encode, read_layout
from flasc_flwr.flower.wire import (
    CONTROL,
    INTRODUCE,
    Order,
    array_record,
    arrays_of,
    holds_payload,
    payload_of,
    payload_record,
)
from flasc_flwr.layout import Layout, Vector
from flasc_flwr.methods import Trains
from flasc_flwr.sparsity import SparseVector, top_k

OWN_SETTINGS = ("download-density", "upload-density")
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
    received: dict[str, _Received] = {}
    for key, record in content.array_records.items():
        if holds_payload(record):
            payload = payload_of(record)
            layout = read_layout(payload)
            sparse = decode(payload, size=layout.size)
            received[key] = _Received(layout, sparse, sparse.densify())
            content[key] = array_record(layout.unflatten(received[key].start))
    if control is None:
        return call_next(message, context)
    order = Order.from_record(control)
    frozen = order.trains == Trains.SUPPORT
    token = _TRAINABLE.set(
        {key: one.trainable() for key, one in received.items()} if frozen else None
    )
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
        layout, start = received[key].layout, received[key].start
        update = layout.flatten(arrays_of(record)) - start
        if frozen:
            update = received[key].on_support(update)
        reply.content[key] = payload_record(
            encode(top_k(update, order.density), order.value_format, layout=layout)
        )
    return reply


def trainable_entries(key: str = "arrays") -> dict[str, NDArray[np.bool_]] | None:
    """Return which entries the running train function may change.

    Methods that freeze what was not downloaded need the help of the ClientApp: it has
    to hold the other entries still while it trains. What it changes of them all the
    same is not sent.

    Parameters
    ----------
    key : str
        Key of the ArrayRecord in the message.

    Returns
    -------
    dict[str, NDArray[np.bool_]] or None
        For each array its mask, or None where all entries may change.
    """
    trainable = _TRAINABLE.get()
    return trainable[key] if trainable else None


@dataclass(frozen=True, eq=False)
class _Received:
    """A download: its layout, its support, and the dense vector it stands for."""

    layout: Layout
    sparse: SparseVector
    start: Vector

    def trainable(self) -> dict[str, NDArray[np.bool_]]:
        support = np.zeros(self.layout.size, bool)
        support[self.sparse.positions] = True
        return {
            tensor.name: support[place].reshape(tensor.shape)
            for tensor, place in self.layout.slices()
        }

    def on_support(self, update: Vector) -> Vector:
        positions = self.sparse.positions
        return SparseVector(len(update), positions, update[positions]).densify()


_TRAINABLE: ContextVar[dict[str, dict[str, NDArray[np.bool_]]] | None] = ContextVar(
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
