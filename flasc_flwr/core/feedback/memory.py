"""A device's memory: its reference, and the residual that it has not sent yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from flasc_flwr.core.codec import decode
from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.reshaping import reshaped
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting

RECEIPT_BYTES = 8
"""Length of a receipt: long enough that no two replies of a device share one."""


@dataclass(frozen=True)
class Reply:
    """A reply of which the device does not know whether it was taken in.

    Attributes
    ----------
    round : int
        Its round.
    payload : bytes
        What was sent.
    """

    round: int
    payload: bytes

    @property
    def receipt(self) -> bytes:
        """What the server confirms it by; both sides compute it."""
        content = hashlib.sha256(self.round.to_bytes(8, "little"))
        content.update(self.payload)
        return content.digest()[:RECEIPT_BYTES]


@dataclass(frozen=True, kw_only=True)
class Fading:
    """How a residual fades.

    What was trained long ago is stale: the sooner it counts less, the larger the steps
    that the server can take. 1 forgets nothing.
    """

    decay: float = setting(
        0.8,
        number("[0, 1]"),
        "factor on a residual for each round since it was trained; 1 forgets nothing",
        key="feedback-decay",
        used_by="methods with error feedback",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)


@dataclass(eq=False)
class DeviceMemory:
    """What a device remembers between rounds.

    Attributes
    ----------
    layout : Layout
        Layout of its adapter, of size n.
    residual : NDArray[np.float32], shape (n,)
        What was trained and not sent, as if all `unconfirmed` replies are taken in.
    reference : Reference or None
        What the device holds of the server's; None if downloads need no memory.
    unconfirmed : list[Reply]
        Replies whose fate is unknown. What the server did not take in goes back into
        the residual.
    trained : int or None
        Round of its last training.
    run : bytes
        Names the server's run that it is of; empty if that is not known.
    """

    layout: Layout
    residual: Vector
    reference: Reference | None = None
    unconfirmed: list[Reply] = field(default_factory=list)
    trained: int | None = None
    run: bytes = b""

    @classmethod
    def empty(cls, layout: Layout, run: bytes = b"") -> DeviceMemory:
        """Return the memory of a device that has none."""
        return cls(layout, np.zeros(layout.size, np.float32), run=run)

    def open_round(self, round: int, taken: bytes | None) -> None:
        """Settle the replies to earlier rounds.

        A round takes in at most one reply of a device, and none of an earlier round:
        what the message of a later round does not confirm was not taken in. If a
        message does not confirm them, nothing is known yet of replies to the same round
        (its message was delivered twice, or an evaluation follows) or to a later one
        (messages changed places, or the server resumed from an older checkpoint).

        Parameters
        ----------
        round : int
            Round of the message.
        taken : bytes or None
            Receipt of this device's reply that the server took in last; None for none.
        """
        open_replies = []
        for reply in self.unconfirmed:
            if reply.receipt == taken:
                continue
            if reply.round >= round:
                open_replies.append(reply)
            else:
                self._take_back(reply)
        self.unconfirmed = open_replies

    def hold(self, reference: Reference) -> None:
        """Take over a reference, of another rank than before perhaps."""
        self.follow(reference.layout)
        self.reference = reference

    def follow(self, layout: Layout) -> None:
        """Take over the layout of a download.

        The residual of components that the device no longer has is dropped.
        """
        if layout.fingerprint == self.layout.fingerprint:
            return
        for reply in self.unconfirmed:
            self._take_back(reply)
        self.unconfirmed = []
        self.residual = reshaped(self.residual, self.layout, layout)
        self.layout, self.reference = layout, None

    def owed(self, update: Vector, round: int, fading: Fading) -> Vector:
        """Return what the device owes the server: its update and the residual.

        Parameters
        ----------
        update : NDArray[np.float32], shape (n,)
            Trained minus received.
        round : int
            The round.
        fading : Fading
            How the residual fades over the rounds since the last training, those
            that the device missed included.
        """
        if self.trained is not None and round > self.trained:
            passed = round - self.trained
            self.residual *= np.float32(fading.decay**passed)
        self.trained = round
        self.residual += update
        return self.residual

    def sent(self, round: int, payload: bytes) -> None:
        """Note what was sent of what the device owes.

        Where the rounded value is within a factor of two of the value, the difference
        is exact (Sterbenz' lemma).
        """
        sparse = decode(payload, self.layout.size)
        self.residual[sparse.positions] -= sparse.values
        self.unconfirmed.append(Reply(round, payload))

    def _take_back(self, reply: Reply) -> None:
        """Put what a reply carried back into the residual."""
        sent = decode(reply.payload, self.layout.size)
        self.residual[sent.positions] += sent.values


@dataclass
class Receipts:
    """The server's side of it: what was last taken in of each device.

    Attributes
    ----------
    last : dict[str, bytes]
        The receipt of the last reply taken in, by the device's name.
    """

    last: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Mapping[str, str]) -> Receipts:
        """Return receipts that were stored as hexadecimal text."""
        return cls({name: bytes.fromhex(text) for name, text in stored.items()})

    def take(self, name: str, round: int, payload: bytes) -> None:
        """Note that a reply was taken in."""
        self.last[name] = Reply(round, payload).receipt
