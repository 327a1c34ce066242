"""What the server remembers of its devices: their references, and what it took in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message

from flasc_flwr.core.feedback.memory import Receipts
from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.stored import Stored, restore_stream, store_stream
from flasc_flwr.core.feedback.stream import Compress, Stream
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.served import MOST_SERVED
from flasc_flwr.core.ranks import truncation
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.feedback.reminder import HELD, RUN_BYTES, SUM, held_in, of_record
from flasc_flwr.flower.wire import CONTROL

MOST_STREAMS = 2 * MOST_SERVED
"""Streams kept at once: a device chooses its own budget, and a stream takes up to two
vectors at the server. Devices of a stream that was dropped are sent a whole one."""

Key = tuple[Any, ...]
"""What a stream is for, such as rank, download density and download bytes of a budget:
values of JSON types where it goes into a checkpoint."""


class OtherReferenceError(ValueError):
    """A device answered that it holds another reference than its message builds on."""


@dataclass
class _Followed:
    """A stream, and the turn of its last payload; 0 before the first."""

    stream: Stream
    turn: int = 0


@dataclass
class FleetMemory:
    """What the server remembers of its devices.

    Attributes
    ----------
    receipts : Receipts
        What was last taken in of each device.
    held : dict[str, bytes or None]
        Which reference each device holds, by its name, as far as the server knows. Not
        in checkpoints: devices say it when they introduce themselves.
    most : int, optional
        Most streams that are kept (default: `MOST_STREAMS`).
    run : bytes
        Names the run.
    """

    receipts: Receipts = field(default_factory=Receipts)
    held: dict[str, bytes | None] = field(default_factory=dict)
    most: int | None = None
    run: bytes = field(default_factory=lambda: secrets.token_bytes(RUN_BYTES))
    _streams: dict[Key, _Followed] = field(default_factory=dict)
    _collected: Receipts = field(default_factory=Receipts)

    def moved(
        self,
        key: Key,
        layout: Layout,
        turn: int,
        target: Vector,
        compress: Callable[[bool], Compress],
        grid: str = "float32",
    ) -> Stream:
        """Return the stream of a budget, moved towards the target once in each turn.

        Whoever sends it to a device keeps it (:meth:`keep`): until then, what devices
        receive next is only looked at.

        Parameters
        ----------
        key : Key
            What the stream is for.
        layout : Layout
            Layout of its devices' adapter, of size n.
        turn : int
            The turn, at least 1.
        target : NDArray[np.float32], shape (n,)
            What the reference should become.
        compress : Callable[[bool], Compress]
            Returns how a difference is encoded; True for the first one of a stream,
            which has every entry.
        grid : str
            The numbers that the reference consists of.
        """
        known = self._streams.get(key) or _Followed(Stream.begin(layout, grid))
        if known.turn == turn:
            return known.stream
        stream = known.stream.copy()
        stream.advance(target, compress(known.turn == 0))
        return stream

    def keep(self, key: Key, stream: Stream, turn: int) -> None:
        """Keep a stream that devices are sent, as it was moved in a turn."""
        self._streams.pop(key, None)
        self._streams[key] = _Followed(stream, turn)  # the one used last is the last
        while len(self._streams) > (self.most or MOST_STREAMS):
            del self._streams[next(iter(self._streams))]

    def run_for(self, name: str) -> bytes:
        """Return the name of the run for a message to a device; empty if it knows it.

        A device may remember another run, which it is to forget. Once a reply of it was
        taken in, it has.
        """
        return b"" if name in self.receipts.last else self.run

    def introduced(self, name: str, settings: Mapping[str, Any]) -> None:
        """Note which reference a device says that it holds."""
        self.held[name] = held_in(settings)

    def turn(self, key: Key) -> int:
        """Return the turn that a stream was moved in last; 0 if there is none yet."""
        return self._streams[key].turn if key in self._streams else 0

    def heard(
        self, name: str, reply: Message, newest: Reference | None, record: str = ""
    ) -> None:
        """Note what a reply says about the device's reference.

        Parameters
        ----------
        name : str
            Name of the device.
        reply : Message
            Its reply, which is not an error.
        newest : Reference or None
            The reference that its message led to; None if it leads to none.
        record : str
            Key of the ArrayRecord that it is about, if there may be several.

        Raises
        ------
        OtherReferenceError
            If the device could not use its message, or holds other values.
        """
        controls = records_of(reply.content, ConfigRecord)
        control: Mapping[str, Any] = controls.get(CONTROL, {})
        if of_record(HELD, record) in control:
            self.held[name] = held_in(control, record)
            raise OtherReferenceError(
                "the device holds another reference than expected; the next message "
                "has what it lacks"
            )
        if newest is None:
            return
        said = control.get(of_record(SUM, record))
        is_same = type(said) is int and said == newest.checksum
        self.held[name] = newest.version if is_same else None
        if self.held[name] is None:
            raise OtherReferenceError(
                "the values of the device's reference differ from the server's; the "
                "next message has all of them"
            )

    def open_round(self) -> None:
        """Forget what an earlier round collected without making a step."""
        self._collected = Receipts()

    def collect(self, name: str, round: int, payload: bytes) -> None:
        """Note the payload of a reply that is taken in if this round makes a step.

        Only its receipt is kept: the payloads of a round may take a lot of memory.
        """
        self._collected.take(name, round, payload)

    def stepped(self) -> None:
        """Confirm what was collected: the server vector has it now."""
        self.receipts.last |= self._collected.last
        self._collected = Receipts()

    def stored(self) -> tuple[dict[str, Any], Stored]:
        """Return what a checkpoint needs: values of JSON types, and arrays."""
        known = {
            "run": self.run.hex(),
            "receipts": {n: r.hex() for n, r in self.receipts.last.items()},
            "streams": [[*key, one.turn] for key, one in self._streams.items()],
        }
        arrays = {
            f"{i}/{name}": array
            for i, one in enumerate(self._streams.values())
            for name, array in store_stream(one.stream).items()
        }
        return known, arrays

    @classmethod
    def restored(
        cls, known: Mapping[str, Any], arrays: Stored, layout: Layout
    ) -> FleetMemory:
        """Return what was stored, for the whole adapter's layout."""
        streams = {}
        for i, (rank, density, size, turn) in enumerate(known["streams"]):
            prefix = f"{i}/"
            own = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            stream = restore_stream(own, truncation(layout, rank or None).layout)
            streams[rank, density, size] = _Followed(stream, turn)
        # Checkpoints of older versions do not name their run.
        run = bytes.fromhex(known.get("run", ""))
        return cls(Receipts.of(known["receipts"]), run=run, _streams=streams)

    def copy(self, layout: Layout) -> FleetMemory:
        """Return a copy that a run may change: only arrays are shared."""
        return self.restored(*self.stored(), layout)
