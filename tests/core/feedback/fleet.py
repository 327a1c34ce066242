"""A server and devices with error feedback, whose messages may be lost or repeated."""

from dataclasses import dataclass, field
from math import inf

import numpy as np

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.feedback.catching_up import UnknownVersionError
from flasc_flwr.core.feedback.memory import DeviceMemory, Fading, Receipts
from flasc_flwr.core.feedback.stored import (
    restore_memory,
    restore_stream,
    store_memory,
    store_stream,
)
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k

HALF_ULP = 2.0**-24
"""Largest relative error of one rounding to float32."""


def adapter(rank=4):
    return Layout.of(
        {
            "m.lora_A.weight": np.zeros((rank, 6), np.float32),
            "m.lora_B.weight": np.zeros((5, rank), np.float32),
            "head": np.zeros(3, np.float32),
        }
    )


LAYOUT = adapter()


def compressor(layout, density, values):
    return lambda vector: encode(top_k(vector, density), values, layout=layout)


@dataclass
class Device:
    """A device, and what it has trained and may have lost to rounding so far."""

    name: str
    values: str
    density: float
    fading: Fading = Fading(decay=1.0)
    memory: DeviceMemory | None = None
    trained: np.ndarray = None
    rounding: np.ndarray = None

    def __post_init__(self):
        self.trained = np.zeros(LAYOUT.size)
        self.rounding = np.zeros(LAYOUT.size)

    def answer(self, message, update):
        """Return the reply's payload; raises UnknownVersionError without state."""
        round, taken, way = message
        held = self.memory.reference if self.memory else None
        reference = way.applied(held)
        if self.memory is None:
            self.memory = DeviceMemory.empty(reference.layout)
        self.memory.open_round(round, taken)
        self.memory.hold(reference)
        # One rounding where something went back, one where the update is added.
        self.rounding += HALF_ULP * np.abs(self.memory.residual)
        owed = self.memory.owed(update, round, self.fading)
        self.rounding += HALF_ULP * np.abs(owed)
        self.trained += update
        payload = compressor(reference.layout, self.density, self.values)(owed)
        self.memory.sent(round, payload)
        return payload

    def held(self, taken):
        """Return what the device still owes, once it knows what was taken in."""
        if self.memory is None:
            return np.zeros(LAYOUT.size)
        memory = restore_memory(store_memory(self.memory))
        memory.open_round(inf, taken)
        return memory.residual.astype(np.float64)


@dataclass
class Server:
    """A server: its stream, what it knows of its devices, and what it took in."""

    values: str
    density: float
    layout: Layout = LAYOUT
    vector: np.ndarray = None
    stream: Stream = None
    receipts: Receipts = field(default_factory=Receipts)
    versions: dict = field(default_factory=dict)
    taken: dict = field(default_factory=dict)

    def __post_init__(self):
        self.vector = np.zeros(self.layout.size, np.float32)
        self.stream = Stream.begin(self.layout)

    def advance(self):
        compress = compressor(self.layout, self.density, self.values)
        self.stream.advance(self.vector, compress)

    def message(self, round, name):
        way = self.stream.catch_up(self.versions.get(name))
        return round, self.receipts.last.get(name), way

    def arrived(self, name):
        """A reply says that the device holds this round's reference."""
        self.versions[name] = self.stream.reference.version

    def take(self, round, name, payload):
        self.receipts.take(name, round, payload)
        update = decode(payload, self.layout.size).densify()
        self.taken[name] = self.taken.get(name, 0.0) + update.astype(np.float64)
        self.vector = self.vector + update

    def failed(self, name):
        """The device said that it holds another reference."""
        self.versions[name] = None

    def saved(self):
        return (
            self.vector.copy(),
            store_stream(self.stream),
            Receipts.of({k: v.hex() for k, v in self.receipts.last.items()}),
            dict(self.versions),
        )

    def resume(self, saved):
        self.vector, stored, receipts, versions = saved
        self.stream = restore_stream(stored, self.layout)
        self.receipts, self.versions = Receipts(dict(receipts.last)), dict(versions)


def deliver(server, device, message, update):
    """Let a device answer; return its payload, or None if it has to be sent all."""
    try:
        payload = device.answer(message, update)
    except UnknownVersionError:
        server.failed(device.name)
        return None
    reference = device.memory.reference
    assert reference.digest == server.stream.reference.digest
    assert reference.version == server.stream.reference.version
    return payload
