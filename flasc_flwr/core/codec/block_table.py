"""The block table: how the support of each block is coded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.blocks import LONGEST, SHORTEST
from flasc_flwr.core.codec.errors import PayloadError

_WIDEST = LONGEST.bit_length()


class Kind(IntEnum):
    """How a block's support is coded."""

    EMPTY = 0
    FULL = 1
    BITMAP = 2
    GAPS = 3
    HOLES = 4


@dataclass(frozen=True)
class Block:
    """A row of the block table.

    Attributes
    ----------
    kind : Kind
        The code.
    width : int
        b, the number of low bits of a gap; 0 for other codes.
    start, length : int
        Where the block lies in the vector.
    count : int
        Entries kept, or holes where these are coded.
    """

    kind: Kind
    width: int
    start: int
    length: int
    count: int

    @property
    def kept(self) -> int:
        """Entries of the support."""
        return self.length - self.count if self.kind is Kind.HOLES else self.count

    @property
    def rice(self) -> bool:
        """Whether the block lies in the streams of gaps."""
        return self.kind in (Kind.GAPS, Kind.HOLES)

    def to_bytes(self) -> bytes:
        """Return the row: kind and width, length, and the count unless it follows."""
        count = b"" if self.kind in (Kind.EMPTY, Kind.FULL) else varint(self.count)
        return bytes([self.kind | self.width << 3]) + varint(self.length) + count


def read_table(rows: Reader, size: int) -> Iterator[Block]:
    """Yield the rows of a table that covers a vector of length N, and no more.

    Raises
    ------
    PayloadError
        If a row is wrong, or the rows do not cover the vector.
    """
    start, number = 0, 0
    while rows.left:
        where = f"block {number}"
        (head,) = rows.take(1, where)
        length, width = rows.varint(where), head >> 3
        if not 0 < length <= min(LONGEST, size - start):
            raise PayloadError(
                f"{where}: length {length} at entry {start} of {size}, "
                f"allowed is 1 to {LONGEST}"
            )
        if length < SHORTEST and start + length < size:
            raise PayloadError(f"{where}: length {length}, but it is not the last one")
        if head & 7 > Kind.HOLES:
            raise PayloadError(f"{where}: unknown kind {head & 7}")
        kind = Kind(head & 7)
        if kind in (Kind.EMPTY, Kind.FULL):
            count = length if kind is Kind.FULL else 0
        else:
            count = rows.varint(where)
            if not 0 < count < length:
                raise PayloadError(
                    f"{where}: {count} of its {length} entries are coded"
                )
        if width > (_WIDEST if kind in (Kind.GAPS, Kind.HOLES) else 0):
            raise PayloadError(f"{where}: Rice parameter {width}")
        yield Block(kind, width, start, length, count)
        start += length
        number += 1
    if start != size:
        raise PayloadError(f"block table: covers {start} of {size} entries")
