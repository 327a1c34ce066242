"""A wire between two TUN devices: rate, delay, queue and loss, packet by packet.

For kernels without netem. Both hosts run the kernel's own TCP; the wire forwards IP
packets as a link would: one after the other at its rate, then later by its delay, out
of a queue that drops what does not fit.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_LARGEST_PACKET = 65536


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One direction of a link.

    Attributes
    ----------
    rate : float
        Mbit/s (10^6 bits per second), of IP packets with their headers.
    delay : float
        Seconds from the end of sending to the arrival.
    queue : float
        Seconds that a packet may wait for its turn; what would wait longer is dropped.
    loss : float
        Fraction of the packets that are lost.
    """

    rate: float
    delay: float = 0.025
    queue: float = 0.5
    loss: float = 0.0


def open_tun(name: str) -> int:
    """Make a TUN device in this process's namespace; return its file descriptor.

    The descriptor stays valid when the device is moved to another namespace.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


@dataclass
class _Way:
    """One direction of a wire: where it reads and writes, and when it is free."""

    source: int
    target: int
    shape: Shape
    free: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def arrival(self, size: int, now: float) -> float | None:
        """Return when a packet of `size` bytes arrives; None if it is lost."""
        start = max(now, self.free)
        # A wire that is idle sends one packet, however short its queue is.
        if start - now > self.shape.queue:
            return None
        self.free = start + size * 8 / (self.shape.rate * 1e6)
        lost = self.random.random() < self.shape.loss
        return None if lost else self.free + self.shape.delay


class Wire:
    """Forwards packets between two TUN devices until it is closed.

    Parameters
    ----------
    server, device : int
        Descriptors of the two ends.
    down, up : Shape
        From the server to the device, and back.
    """

    def __init__(self, server: int, device: int, down: Shape, up: Shape) -> None:
        self._ends = (server, device)
        self._ways = {server: _Way(server, device, down)}
        self._ways[device] = _Way(device, server, up)
        self.cut = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop forwarding, and close both ends, which removes the devices."""
        self._closed = True
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _run(self) -> None:
        # (arrival, number, target, packet): the number keeps packets in order.
        flying: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self._closed:
            pause = flying[0][0] - time.monotonic() if flying else 0.1
            readable, _, _ = select.select(self._ends, [], [], min(0.1, max(0, pause)))
            now = time.monotonic()
            for end in readable:
                for packet in _packets(end):
                    way = self._ways[end]
                    at = None if self.cut else way.arrival(len(packet), now)
                    if at is not None:
                        number += 1
                        heapq.heappush(flying, (at, number, way.target, packet))
            while flying and flying[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(flying)
                if not self.cut:
                    _write(target, packet)


def _packets(end: int) -> list[bytes]:
    """Return what can be read without waiting, at most 64 packets."""
    packets = []
    for _ in range(64):
        try:
            packets.append(os.read(end, _LARGEST_PACKET))
        except OSError:  # nothing more, or the device is down
            break
    return packets


def _write(end: int, packet: bytes) -> None:
    # As on a real link, what cannot be delivered is lost.
    with suppress(OSError):
        os.write(end, packet)
