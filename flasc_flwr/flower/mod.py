"""The client mod: decodes what comes in, encodes what goes out."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.codec import decode, encode, read_layout
from flasc_flwr.flower.wire import (
    CONTROL,
    INTRODUCE,
    UploadOrder,
    array_record,
    arrays_of,
    holds_payload,
    payload_of,
    payload_record,
)
from flasc_flwr.layout import Layout, Vector
from flasc_flwr.sparsity import top_k

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
    received: dict[str, tuple[Layout, Vector]] = {}
    for key, record in content.array_records.items():
        if holds_payload(record):
            payload = payload_of(record)
            layout = read_layout(payload)
            vector = decode(payload, size=layout.size).densify()
            content[key] = array_record(layout.unflatten(vector))
            received[key] = (layout, vector)
    reply = call_next(message, context)
    if control is None or reply.has_error():
        return reply
    order = UploadOrder.from_record(control)
    for key, record in reply.content.array_records.items():
        if key not in received:
            raise ValueError(
                f"the reply's arrays {key!r} answer none of those received: "
                f"{', '.join(received) or 'none'}"
            )
        layout, start = received[key]
        update = top_k(layout.flatten(arrays_of(record)) - start, order.density)
        reply.content[key] = payload_record(
            encode(update, order.value_format, layout=layout)
        )
    return reply


def _introduce(message: Message, context: Context) -> Message:
    """Answer who this node is and what it may use."""
    settings = context.node_config
    answer = ConfigRecord({k: settings[k] for k in OWN_SETTINGS if k in settings})
    # Node ids are drawn anew for every simulation; the partition is what makes a
    # simulated client the same client in the next run.
    if "partition-id" in settings:
        answer["name"] = str(settings["partition-id"])
    return Message(RecordDict({CONTROL: answer}), reply_to=message)
