"""Local differential privacy by Flower's own mod, set by the run config."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.wire import array_record, arrays_of, views_of

_KEPT = "num-examples"

_STEP = 1e-3
"""Relative step of an entry that must not stay where it was."""


def local_dp(
    message: Message, context: Context, call_next: ClientAppCallable
) -> Message:
    """Clip the update and add noise to it, before anything leaves the client.

    Listed after ``flasc_mod``, so it sees plain arrays; selecting entries of noisy
    arrays is post-processing. No effect if ``local-dp-epsilon`` is 0. Epsilon is for
    one round; rounds are not added up. Of the metrics only the number of examples
    leaves the client, because the others have no noise; also of an evaluation's.

    Parameters
    ----------
    message : Message
        The incoming message.
    context : Context
        The node's context, with the run config.
    call_next : ClientAppCallable
        The next mod, or the app.
    """
    settings = context.run_config
    epsilon = float(settings.get("local-dp-epsilon", 0))
    kind = message.metadata.message_type
    if epsilon and kind == MessageType.EVALUATE:
        return _without_metrics(call_next(message, context))
    if not epsilon or kind != MessageType.TRAIN:
        return call_next(message, context)
    norm = float(settings["local-dp-clip-norm"])
    add_noise = LocalDpMod(
        clipping_norm=norm,
        # The largest distance between two clipped updates.
        sensitivity=2 * norm,
        epsilon=epsilon,
        delta=float(settings["local-dp-delta"]),
    )
    return _without_metrics(add_noise(message, context, _before_noise(call_next)))


def _before_noise(call_next: ClientAppCallable) -> ClientAppCallable:
    """Return the next mod or app, whose reply is then ready for Flower's noise."""

    def call(message: Message, context: Context) -> Message:
        reply = call_next(message, context)
        if not reply.has_error():
            _move_what_stood_still(message, reply)
        # Flower draws the noise from numpy's own generator. Code that trains may have
        # seeded it, often with a number that the server knows: it could then take the
        # noise off.
        np.random.seed()
        return reply

    return call


def _move_what_stood_still(message: Message, reply: Message) -> None:
    """Change an entry where training changed none, less than the noise will.

    Flower divides by the norm of the update: the error would say that it is zero.
    """
    sent, trained = (records_of(m.content, ArrayRecord) for m in (message, reply))
    if len(sent) != 1 or len(trained) != 1:
        return  # Flower refuses it
    (old,), ((key, new),) = map(views_of, sent.values()), trained.items()
    arrays = arrays_of(new)
    if list(old) != list(arrays):
        return  # as well
    # As Flower computes it, where small numbers have no squares.
    squares = (np.linalg.norm((arrays[n] - old[n]).flat) ** 2 for n in arrays)
    if any(squares):
        return
    for array in arrays.values():
        if array.size:
            array.flat[0] += _STEP * max(1.0, abs(array.flat[0]))
            break
    reply.content[key] = array_record(arrays)


def _without_metrics(reply: Message) -> Message:
    """Return a reply with no other metric than the number of examples."""
    if not reply.has_error():
        for key, record in records_of(reply.content, MetricRecord).items():
            kept = {name: record[name] for name in (_KEPT,) if name in record}
            reply.content[key] = MetricRecord(kept)
    return reply
