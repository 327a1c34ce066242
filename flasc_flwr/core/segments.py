"""Segments: equal parts of an adapter, of which a client sends one in each turn."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from flasc_flwr.core.ranges import integer

SEGMENTS = integer(1)
"""How many segments an adapter may have."""


@dataclass(frozen=True)
class Segment:
    """One of `count` equal parts of a vector, in the order of its entries.

    Attributes
    ----------
    index : int
        Which one, 0 to `count` - 1.
    count : int
        How many there are.
    """

    index: int
    count: int

    def place(self, size: int) -> slice:
        """Return where it lies in a vector of length `size`."""
        return slice(
            self.index * size // self.count, (self.index + 1) * size // self.count
        )


def segment_of(name: str, turn: int, count: int) -> Segment:
    """Return the segment that a client sends in a turn, round robin.

    ``(i + t) mod count`` for client i in turn t (EcoLoRA, arXiv 2506.02001). Client and
    turn decide, so that a message needs no positions to say which one it is. A name
    that is not a number is hashed first.

    Parameters
    ----------
    name : str
        The client's name.
    turn : int
        1 before the first step of the server optimizer, 2 after it, and so on.
    count : int
        Number of segments, at least 1.
    """
    number = int(name) if name.isdecimal() else crc32(name.encode())
    return Segment((number + turn) % count, count)
