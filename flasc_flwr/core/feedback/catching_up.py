"""Catching up: how a device gets from the reference it holds to the newest one."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.codec import PayloadError, decode, read_layout
from flasc_flwr.core.feedback.grid import on_grid
from flasc_flwr.core.feedback.reference import Reference, next_version


class UnknownVersionError(ValueError):
    """The device holds another reference than the server's message builds on."""


@dataclass(frozen=True, eq=False)
class CatchUp:
    """What one device is sent: where to start, and the payloads to add.

    Attributes
    ----------
    base : bytes
        Version of the reference that the first payload is added to.
    start : bytes or None
        That reference itself, whole, exact and with its layout; None if the device
        holds it, or one of those after it.
    payloads : tuple[bytes, ...]
        The payloads from there to the newest reference, in order.
    grid : str
        The numbers that these references consist of.
    """

    base: bytes
    start: bytes | None
    payloads: tuple[bytes, ...]
    grid: str = "float32"

    @property
    def size(self) -> int:
        """Bytes of the payloads, the whole reference included."""
        return len(self.start or b"") + sum(map(len, self.payloads))

    def applied(self, held: Reference | None) -> Reference:
        """Return the newest reference, on a device.

        A device may hold a later reference than the server assumes: its reply to an
        earlier message was lost. It skips the payloads that it has added already.

        Parameters
        ----------
        held : Reference or None
            What the device holds; None for nothing.

        Raises
        ------
        UnknownVersionError
            If the message builds on a reference that the device does not hold: it has
            to be sent a whole one.
        PayloadError
            If a payload is corrupt.
        """
        missing = None if held is None else self._after(held.version)
        if held is not None and missing is not None:
            return held.after(missing)
        if self.start is None:
            has = "none" if held is None else held.version.hex()
            raise UnknownVersionError(
                f"the message builds on reference {self.base.hex()}, this device has "
                f"{has}"
            )
        start = whole_reference(self.start, self.base, self.grid)
        return start.after(self.payloads)

    def _after(self, version: bytes) -> tuple[bytes, ...] | None:
        """Return the payloads after a version; None if it is not on the way."""
        reached = self.base
        for count, payload in enumerate(self.payloads):
            if reached == version:
                return self.payloads[count:]
            reached = next_version(reached, payload)
        return () if reached == version else None


def whole_reference(start: bytes, version: bytes, grid: str = "float32") -> Reference:
    """Return the reference that travels whole, with its layout, as one payload.

    Raises
    ------
    PayloadError
        If the payload is corrupt, or has no layout.
    """
    layout = read_layout(start)
    if not layout.size:
        raise PayloadError("the reference has no entries")
    vector = on_grid(decode(start, layout.size).densify(), grid)
    return Reference(layout, vector, version, grid)
