"""Devices in network namespaces, each with a link of its own to the server.

The links are veth pairs with netem, if the kernel has it, else TUN devices with a wire
in this process (:mod:`shaped.wire`). An unshaped link is a bare veth pair. Needs root
and iproute2; run it in a namespace of its own (``unshare --net``), so that nothing is
left in the host's network.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from shaped.wire import Shape, Wire, open_tun

_PACKET = 1500


@dataclass(frozen=True, kw_only=True)
class Link:
    """A device's link; without rates it is not shaped.

    Attributes
    ----------
    down, up : float, optional
        Mbit/s to the device, and from it.
    round_trip : float
        Seconds to the server and back.
    queue : float
        Seconds of traffic that wait at the narrow end before packets are dropped.
    loss : float
        Fraction of the packets that are lost, each way.
    """

    down: float | None = None
    up: float | None = None
    round_trip: float = 0.05
    queue: float = 0.5
    loss: float = 0.0

    def shapes(self) -> tuple[Shape, Shape] | None:
        """Return the two directions, down and up; None without rates."""
        if self.down is None or self.up is None:
            return None
        down, up = (
            Shape(
                rate=rate, delay=self.round_trip / 2, queue=self.queue, loss=self.loss
            )
            for rate in (self.down, self.up)
        )
        return down, up


@dataclass
class Device:
    """A namespace with one link.

    Attributes
    ----------
    namespace : str
        Its name.
    server : str
        Address of the server, seen from it.
    interface : str
        The server's end of its link.
    wire : Wire, optional
        The link, where this process forwards its packets.
    """

    namespace: str
    server: str
    interface: str
    wire: Wire | None = None

    def command(self, *words: str) -> list[str]:
        """Return a command that runs in the namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def traffic(self) -> tuple[int, int]:
        """Return the bytes down and up so far, with IP headers, at the server's end."""
        shown = _run("ip", "-s", "-j", "link", "show", "dev", self.interface)
        counts = json.loads(shown)[0]["stats64"]
        return counts["tx"]["bytes"], counts["rx"]["bytes"]

    def cut(self, down: bool = True) -> None:
        """Cut the link, or connect it again. Packets are dropped silently."""
        if self.wire:
            self.wire.cut = down
        else:
            raise ValueError("only a link that this process forwards can be cut")


def addresses(count: int) -> list[str]:
    """Return the server's address for each device, for its certificate."""
    return [f"10.98.{number}.1" for number in range(count)]


def has_netem() -> bool:
    """Return whether the kernel has netem, and ``tc`` is installed."""
    try:
        _run("ip", "link", "add", "probe-a", "type", "veth", "peer", "name", "probe-b")
    except (OSError, subprocess.CalledProcessError):
        return False
    try:
        _run("tc", "qdisc", "add", "dev", "probe-a", "root", "netem", "delay", "1ms")
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        _run("ip", "link", "del", "probe-a")
    return True


@contextmanager
def network(links: Sequence[Link], *, netem: bool) -> Iterator[list[Device]]:
    """Make a namespace and a link for each device; remove them at the end."""
    _run("ip", "link", "set", "lo", "up")
    with ExitStack() as stack:
        yield [
            stack.enter_context(_device(number, link, netem))
            for number, link in enumerate(links)
        ]


@contextmanager
def _device(number: int, link: Link, netem: bool) -> Iterator[Device]:
    name, here, there = f"flasc-{os.getpid()}-{number}", f"to-{number}", f"wan-{number}"
    device = Device(name, addresses(number + 1)[number], here)
    _run("ip", "netns", "add", name)
    try:
        shapes = link.shapes()
        if shapes and not netem:
            ends = open_tun(here), open_tun(there)
        else:
            _run("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        _run("ip", "link", "set", there, "netns", name)
        inside = device.command("ip")
        _run("ip", "addr", "add", f"10.98.{number}.1/24", "dev", here)
        _run("ip", "link", "set", here, "up")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "addr", "add", f"10.98.{number}.2/24", "dev", there)
        _run(*inside, "link", "set", there, "up")
        if shapes and netem:
            _run(*_netem(here, shapes[0]))
            _run(*device.command(*_netem(there, shapes[1])))
        elif shapes:
            device.wire = Wire(*ends, *shapes)
        yield device
    finally:
        if device.wire:
            device.wire.close()
        _run("ip", "netns", "del", name)


def _netem(interface: str, shape: Shape) -> list[str]:
    """Return the command that shapes what leaves through an interface."""
    # netem counts its queue in packets, and those that are delayed are in it.
    seconds = shape.queue + shape.delay
    limit = max(4, round(seconds * shape.rate * 1e6 / 8 / _PACKET))
    words = f"tc qdisc replace dev {interface} root netem rate {shape.rate}mbit"
    words += f" delay {shape.delay * 1000}ms limit {limit} loss {shape.loss * 100}%"
    return words.split()


def _run(*words: str) -> str:
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return done.stdout
