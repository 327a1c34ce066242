"""Positions: the support of a sparse vector, each block in its cheapest code.

A block is empty, full, a bitmap, or the Rice code of its gaps, or of the gaps between
its holes if it is more than half full. With parameter b, a gap g, the number of entries
skipped, is coded as ``g >> b`` in unary and its b low bits (Rice & Plaunt, 1971;
Golomb, 1966, with a power of two). Unary parts and low bits are separate streams, so
that each is decoded for all entries at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import (
    Integers,
    Reader,
    pack,
    pack_bits,
    pack_unary,
    packed_length,
    unpack,
    unpack_bits,
    unpack_unary,
    varint,
)
from flasc_flwr.core.codec.block_table import Block, Kind, read_blocks
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.sparsity import Positions


@dataclass(frozen=True)
class CodedPositions:
    """A support as bytes: the block table, and the streams that it describes."""

    table: bytes
    bitmaps: bytes
    unary: bytes
    low: bytes

    def to_bytes(self) -> bytes:
        """Return the section: all parts, and the length of the unary stream."""
        # Only a stream of gaps has bytes, and any gap has at least one bit.
        length = varint(len(self.unary)) if self.unary else b""
        return b"".join((self.table, length, self.bitmaps, self.unary, self.low))


def encode_positions(positions: Positions, bounds: list[int]) -> CodedPositions:
    """Code a support.

    Parameters
    ----------
    positions : NDArray[np.int64], shape (k,)
        The support, strictly ascending.
    bounds : list[int]
        Bounds of the blocks, from 0 to N: see `blocks.block_bounds`.
    """
    indices = np.searchsorted(positions, bounds).tolist()
    table, bitmaps = [], []
    high: list[Integers] = []
    low: dict[int, list[Integers]] = {}
    for i in range(len(bounds) - 1):
        start, length = bounds[i], bounds[i + 1] - bounds[i]
        own = (positions[indices[i] : indices[i + 1]] - start).astype(np.uint32)
        block, gaps = _choose(own, start, length)
        table.append(block.to_bytes())
        if block.kind is Kind.BITMAP:
            bitmaps.append(pack_bits(_mask(own, length)))
        elif block.rice:
            high.append(gaps >> block.width)
            low.setdefault(block.width, []).append(gaps & ((1 << block.width) - 1))
    return CodedPositions(
        b"".join(table),
        b"".join(bitmaps),
        pack_unary(np.concatenate(high)) if high else b"",
        b"".join(pack(np.concatenate(low[width]), width) for width in sorted(low)),
    )


def _choose(own: Integers, start: int, length: int) -> tuple[Block, Integers]:
    """Return the cheapest code of one block, and the gaps to code.

    `own` are the positions kept, relative to the start of the block.
    """
    if len(own) in (0, length):
        kind = Kind.FULL if len(own) else Kind.EMPTY
        return Block(kind, 0, start, length, len(own)), own
    kind, coded = Kind.GAPS, own
    if 2 * len(own) > length:
        kind = Kind.HOLES
        coded = np.flatnonzero(~_mask(own, length)).astype(np.uint32)
    gaps = coded.copy()
    gaps[1:] -= coded[:-1]
    gaps[1:] -= 1
    count = len(gaps)
    # For independent entries, the best parameter is near log2 of the mean gap.
    near = (length // count).bit_length() - 1
    costs = {
        width: int(np.add.reduce(gaps >> width, dtype=np.uint32)) + count * (width + 1)
        for width in range(max(0, near - 1), near + 2)
    }
    width = min(costs, key=costs.__getitem__)
    if costs[width] >= length:
        return Block(Kind.BITMAP, 0, start, length, len(own)), gaps
    return Block(kind, width, start, length, count), gaps


def _mask(own: Integers, length: int) -> NDArray[np.bool_]:
    mask = np.zeros(length, np.bool_)
    mask[own] = True
    return mask


def decode_positions(reader: Reader, size: int) -> Positions:
    """Read a support of a vector of length N, ascending and below N.

    Parameters
    ----------
    reader : Reader
        At the section.
    size : int
        N.

    Raises
    ------
    PayloadError
        If it is corrupt.
    """
    blocks = list(read_blocks(reader, size))
    coded = any(block.rice for block in blocks)
    return read_streams(
        reader, blocks, reader.varint("unary stream of gaps") if coded else 0
    )


def read_streams(reader: Reader, blocks: list[Block], unary_length: int) -> Positions:
    """Read what a block table describes: bitmaps, `unary_length` bytes, low bits."""
    bitmaps = iter(
        [
            reader.take((block.length + 7) // 8, "bitmaps")
            for block in blocks
            if block.kind is Kind.BITMAP
        ]
    )
    coded = [block for block in blocks if block.rice]
    data = reader.take(unary_length, "unary stream of gaps")
    high = unpack_unary(
        data,
        sum(block.count for block in coded),
        sum(b.count + (b.length - b.count >> b.width) for b in coded),
        "unary stream of gaps",
    )
    low = _read_low(reader, coded)
    positions = np.empty(sum(block.kept for block in blocks), np.int64)
    done, at = 0, 0
    for block in blocks:
        own = positions[done : done + block.kept]
        done += block.kept
        if block.kind is Kind.FULL:
            own[:] = np.arange(block.start, block.start + block.length)
        elif block.kind is Kind.BITMAP:
            mask = unpack_bits(next(bitmaps), block.length, "bitmaps")
            _write(own, mask, block)
        elif block.rice:
            gaps = high[at : at + block.count].astype(np.int64)
            at += block.count
            coded_positions = own if block.kind is Kind.GAPS else gaps
            _sum_gaps(gaps, next(low), block, coded_positions)
            if block.kind is Kind.HOLES:
                mask = np.ones(block.length, np.bool_)
                mask[coded_positions - block.start] = False
                _write(own, mask, block)
    return positions


def _read_low(reader: Reader, coded: list[Block]) -> Iterator[Integers]:
    """Return the low bits of the gaps, block by block; stored by width, then block."""
    low: dict[int, Iterator[Integers]] = {}
    for width in sorted({block.width for block in coded}):
        counts = [block.count for block in coded if block.width == width]
        total = sum(counts)
        data = reader.take(packed_length(total, width), "low bits of gaps")
        numbers = unpack(data, total, width, "low bits of gaps")
        low[width] = iter(np.split(numbers, np.cumsum(counts)[:-1]))
    return iter([next(low[block.width]) for block in coded])


def _sum_gaps(
    steps: NDArray[np.int64], low: Integers, block: Block, out: Positions
) -> None:
    """Compute positions from the high bits of gaps, overwriting them, and low bits."""
    steps <<= block.width
    steps += low
    steps += 1
    steps[0] += block.start - 1
    np.add.accumulate(steps, out=out)
    if out[-1] >= block.start + block.length:
        raise PayloadError(
            f"unary stream of gaps: position {out[-1]} lies outside its block, "
            f"{block.start} to {block.start + block.length - 1}"
        )


def _write(own: Positions, mask: NDArray[np.bool_], block: Block) -> None:
    support = np.flatnonzero(mask)
    if len(support) != len(own):
        raise PayloadError(
            f"bitmaps: {len(support)} entries at {block.start}, expected {len(own)}"
        )
    np.add(support, block.start, out=own)
