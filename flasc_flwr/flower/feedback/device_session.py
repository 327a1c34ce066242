"""One message's use of a device's memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.core.feedback.catching_up import CatchUp
from flasc_flwr.core.feedback.memory import DeviceMemory
from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.stored import store_memory
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.ranges import choice
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.feedback.kept_memory import kept_memory, recalled
from flasc_flwr.flower.feedback.reminder import Reminder

RESIDUAL_VALUES = "residual-values"
"""Key of a node's ``--node-config``: in what format it keeps its residual."""


class DeviceSession:
    """What a device remembers, while it handles one message.

    Parameters
    ----------
    context : Context
        The node's context, which says where the memory is.
    reminder : Reminder
        What the message says about it.
    key : str
        Key of the ArrayRecord that it is about, if there may be several.
    """

    def __init__(self, context: Context, reminder: Reminder, key: str = "") -> None:
        values = context.node_config.get(RESIDUAL_VALUES, "float32")
        allowed = choice("float32", "bfloat16")
        self._half = allowed.require(RESIDUAL_VALUES, values) == "bfloat16"
        self._kept = kept_memory(context, key)
        self._reminder = reminder
        self.memory = recalled(context, key)
        if self.memory and reminder.run and self.memory.run != reminder.run:
            # The residual is of another run. Equal versions name equal references.
            reference = self.memory.reference
            self.memory = DeviceMemory.empty(self.memory.layout, reminder.run)
            self.memory.reference = reference

    @classmethod
    def of(
        cls, context: Context, control: ConfigRecord | None, key: str = ""
    ) -> DeviceSession | None:
        """Return the session of a message; None if it says nothing about a memory.

        Takes the entries of its reminder out of the CONTROL record.

        Parameters
        ----------
        context : Context
            The node's context, which says where the memory is.
        control : ConfigRecord or None
            The message's CONTROL record.
        key : str
            Key of the ArrayRecord that it is about, if there may be several.

        Raises
        ------
        ValueError
            If an entry is of another type or out of range.
        """
        reminder = Reminder.take_from(control, key) if control else None
        return cls(context, reminder, key) if reminder else None

    @property
    def follows(self) -> bool:
        """Whether the download leads from one reference to the next."""
        return self._reminder.base is not None

    def layout(self, data: bytes) -> Layout | None:
        """Return the layout of what a download leads to; None if it is not known.

        Raises
        ------
        PayloadError
            If the download has a whole reference whose layout is corrupt.
        """
        way = self._reminder.way(data)
        if way.start is not None:
            return read_layout(way.start)
        held = self.memory.reference if self.memory else None
        return None if held is None else held.layout

    def let_in(
        self,
        data: bytes,
        layout: Layout,
        limits: DeviceLimits,
        prescribed: Collection[str] = (),
    ) -> None:
        """Check the payloads of a download against the device's own limits.

        A device without a reference needs a whole one, whatever its budget.

        Parameters
        ----------
        data : bytes
            The download.
        layout : Layout
            Layout of what it leads to.
        limits : DeviceLimits
            The limits.
        prescribed : Collection[str]
            Keys of the densities that the message declares as the method's.

        Raises
        ------
        RefusedDownloadError
            If one is beyond the limits.
        """
        way = self.way(data)
        for payload in way.payloads if way.start is None else ():
            limits.let_in_payload(payload)
            kept = decode(payload, layout.size).kept
            limits.let_in_adapter(layout, kept, prescribed)

    def way(self, data: bytes) -> CatchUp:
        """Return the way to the newest reference that a download describes."""
        return self._reminder.way(data)

    def follow(self, data: bytes, init_seed: int | None) -> tuple[Layout, Vector]:
        """Take over the newest reference; return its layout and what is trained from.

        Raises
        ------
        UnknownVersionError
            If the device has to be sent more.
        PayloadError
            If a payload is corrupt.
        """
        held = self.memory.reference if self.memory else None
        reference = self.way(data).applied(held)
        layout = reference.layout
        if self.memory is None:
            self.memory = DeviceMemory.empty(layout, self._reminder.run)
        self.memory.open_round(self._reminder.round, self._reminder.taken)
        self.memory.hold(reference)
        if init_seed is None:
            return layout, reference.vector.copy()
        return layout, reference.vector + seeded_factors(layout, init_seed)

    def owed(
        self, layout: Layout, update: Vector, entries: NDArray[np.bool_] | None
    ) -> Vector:
        """Return what the device owes the server, in entries that may be sent.

        Parameters
        ----------
        layout : Layout
            Layout of the update, of size n.
        update : NDArray[np.float32], shape (n,)
            Trained minus received.
        entries : NDArray[np.bool_], shape (n,), optional
            Which entries are trained in this turn; the residual of the others waits.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        if self.memory is None:
            self.memory = DeviceMemory.empty(layout, self._reminder.run)
        if not self.follows:
            self.memory.open_round(self._reminder.round, self._reminder.taken)
            self.memory.follow(layout)
        with np.errstate(over="ignore"):
            owed = self.memory.owed(update, self._reminder.round, self._reminder.fading)
        if not np.isfinite(owed).all():
            raise ValueError("the update and the residual must be finite")
        return owed.copy() if entries is None else np.where(entries, owed, 0)

    def sent(self, payload: bytes) -> None:
        """Note what was sent."""
        assert self.memory is not None
        self.memory.sent(self._reminder.round, payload)

    def held(self) -> Reference | None:
        """Return the reference that this message leads to; None if it leads to none."""
        return self.memory.reference if self.follows and self.memory else None

    def keep(self) -> None:
        """Put the memory where the node keeps it."""
        if self.memory is not None:
            self._kept.write(store_memory(self.memory, half=self._half))


def sessions_of(
    context: Context, control: ConfigRecord | None, keys: Iterable[str]
) -> dict[str, DeviceSession]:
    """Return the sessions of a message that says something about several memories.

    Parameters
    ----------
    context : Context
        The node's context.
    control : ConfigRecord or None
        The message's CONTROL record; the entries of reminders are taken out of it.
    keys : Iterable[str]
        Keys of the message's ArrayRecords.

    Raises
    ------
    ValueError
        If an entry is of another type or out of range.
    """
    sessions = {key: DeviceSession.of(context, control, key) for key in keys if key}
    return {key: session for key, session in sessions.items() if session}
