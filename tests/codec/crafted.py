"""Bodies of the format ``step`` by context, built section by section, also wrong."""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.codec.bits import Reader, pack, pack_unary, varint
from flasc_flwr.core.codec.entropy import encode_symbols
from flasc_flwr.core.codec.frequencies import (
    compact_table,
    read_compact_table,
    stacked,
)
from flasc_flwr.core.codec.header import Header, seal

NUMBER = VALUE_FORMATS.index("step")


def deflated(text: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(text) + deflater.flush()


@dataclass
class Class:
    """A class as its sections say; a sparse one has gaps."""

    number: int
    symbols: list[int] | np.ndarray
    gaps: list[int] | np.ndarray | None = None
    width: int = 0
    count: int | None = None
    flags: int = 64

    @property
    def row(self) -> bytes:
        flags = self.flags | self.width | (32 if self.gaps is None else 0)
        count = len(self.symbols) if self.count is None else self.count
        return bytes([flags]) + varint(count)

    @property
    def high(self) -> np.ndarray:
        return np.array(self.gaps if self.gaps is not None else [], int) >> self.width


@dataclass
class Body:
    """A body by context; `replaced` has the bytes of sections that lie."""

    shapes: list[tuple[int, int]] = field(default_factory=lambda: [(1, 10)])
    priors: list[int] | np.ndarray = (1,)
    factors: list[int] | np.ndarray = (0,)
    classes: tuple[Class, ...] = ()
    step: float = 1.0
    levels: bytes = b""
    end: bytes = b""
    replaced: dict[str, bytes] = field(default_factory=dict)

    def payload(self, size: int) -> bytes:
        numbers = [varint(n) for shape in self.shapes for n in shape]
        tables = [
            compact_table(np.bincount(one)) if len(one) else b"\1\1"
            for one in self.coded
        ]
        high = np.concatenate([np.zeros(0, int), *(c.high for c in self.classes)])
        sections = {
            "head": struct.pack("<f3sB", self.step, bytes([128] * 3), 1),
            "shapes": sized(deflated(b"".join(numbers))),
            "priors": pack(np.array(self.priors, np.uint8), 5),
            "classes": sum(1 << c.number for c in self.classes).to_bytes(2, "little"),
            "rows": b"".join(c.row for c in self.classes),
            "tables": b"".join(tables),
            "gaps": sized(pack_unary(high) if len(high) else b""),
            "symbols": sized(self.symbols(tables)),
            "levels": self.levels,
            "signs": bytes((sum(np.count_nonzero(c) for c in self.coded[1:]) + 7) // 8),
            "end": self.end,
        }
        return seal(Header(NUMBER, size), b"".join((sections | self.replaced).values()))

    @property
    def coded(self) -> list[np.ndarray]:
        return [np.array(self.factors), *(np.array(c.symbols) for c in self.classes)]

    def symbols(self, tables: list[bytes]) -> bytes:
        rows = stacked([read_compact_table(Reader(t)) for t in tables])
        which = np.repeat(np.arange(len(self.coded)), [len(one) for one in self.coded])
        return encode_symbols(
            np.concatenate(self.coded).astype(np.uint16), rows, which.astype(np.uint8)
        )


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def ones(count: int, number: int = 0) -> tuple[Class]:
    return (Class(number, np.ones(count, int)),)


def gaps(*steps: int, symbols=None) -> tuple[Class]:
    return (Class(0, symbols or [1] * len(steps), list(steps)),)
