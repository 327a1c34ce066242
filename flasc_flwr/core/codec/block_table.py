"""The block table: where each block lies, and how its support is coded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.blocks import LONGEST, SHORTEST
from flasc_flwr.core.codec.errors import PayloadError

_WIDEST = LONGEST.bit_length()


class Kind(IntEnum):
    """The code of a block's support."""

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
        b, the Rice parameter: number of low bits of a gap; 0 for other codes.
    start, length : int
        Where the block lies in the vector.
    count : int
        Number of gaps coded: entries kept, or holes if kind is HOLES.
    """

    kind: Kind
    width: int
    start: int
    length: int
    count: int

    @property
    def kept(self) -> int:
        """Number of entries in the support."""
        return self.length - self.count if self.kind is Kind.HOLES else self.count

    @property
    def rice(self) -> bool:
        """Whether gaps are coded."""
        return self.kind in (Kind.GAPS, Kind.HOLES)

    def to_bytes(self) -> bytes:
        """Return the row: kind and width, length, and count if the kind has one."""
        count = b"" if self.kind in (Kind.EMPTY, Kind.FULL) else varint(self.count)
        return bytes([self.kind | self.width << 3]) + varint(self.length) + count


def read_blocks(rows: Reader, size: int) -> Iterator[Block]:
    """Yield the rows of a table, up to the one that ends at entry N.

    Raises
    ------
    PayloadError
        If a row is invalid, or they end before.
    """
    start, number = 0, 0
    while start < size:
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
