"""Integers as bits: fixed width, unary, and varints; and a reader of sections.

Bit i of a stream is bit ``i % 8`` of byte ``i // 8``, where bit 0 is the lowest. The
last byte of a stream is filled up with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import chunks

Integers = NDArray[np.integer[Any]]

# Temporaries for this many numbers fit into the processor's cache.
_RUN = 1 << 15

_LONGEST_UNARY = (1 << 32) - 1


class Reader:
    """Reads a payload from front to back, and never past its end.

    Parameters
    ----------
    data : bytes or memoryview
        The payload, or a section of it.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._at

    def take(self, length: int, what: str) -> memoryview:
        """Return the next `length` bytes; errors call them `what`.

        Raises
        ------
        PayloadError
            If fewer bytes are left.
        """
        if length > self.left:
            raise PayloadError(
                f"{what}: {length} bytes at byte {self._at}, only {self.left} are left"
            )
        self._at += length
        return self._data[self._at - length : self._at]

    def varint(self, what: str, *, longest: int = 5) -> int:
        """Return the next varint: an unsigned LEB128 number of at most `longest` bytes.

        Raises
        ------
        PayloadError
            If it is truncated, or not in its shortest form.
        """
        value = 0
        for place in range(longest):
            (byte,) = self.take(1, what)
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if place and not byte:
                    break
                return value
        raise PayloadError(f"{what}: no number ends before byte {self._at}")

    def rest(self) -> memoryview:
        """Return all bytes that are left."""
        return self.take(self.left, "rest")

    def finish(self, what: str) -> None:
        """Raise PayloadError unless everything is read."""
        if self.left:
            raise PayloadError(f"{what}: {self.left} bytes are left over")


def varint(value: int) -> bytes:
    """Return a varint: LEB128, 7 bits per byte, lowest first, high bit: more follow."""
    coded = bytearray()
    while value >= 0x80:
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def packed_length(count: int, width: int) -> int:
    """Return the number of bytes of `count` packed integers of `width` bits."""
    planes, rest = divmod(width, 8)
    return count * planes + (count * rest + 7) // 8


def pack(numbers: Integers, width: int) -> bytes:
    """Pack unsigned integers below ``2**width``.

    First ``width // 8`` planes, each with one byte per number, lowest bytes first; then
    the remaining ``width % 8`` bits of each number as a stream of bits.
    """
    planes, rest = divmod(width, 8)
    # In runs of a multiple of eight numbers, which fill whole bytes, to save memory.
    runs = [numbers[chunk] for chunk in chunks(len(numbers))]
    parts = [
        (run >> 8 * plane).astype(np.uint8).tobytes()
        for plane in range(planes)
        for run in runs
    ]
    if rest:
        parts += [_pack_rest(run >> 8 * planes, rest) for run in runs]
    return b"".join(parts)


def _pack_rest(numbers: Integers, rest: int) -> bytes:
    padded = np.zeros(-(-len(numbers) // 8) * 8, np.uint8)
    padded[: len(numbers)] = numbers
    # Eight numbers become one 64-bit word in three steps, each joining two neighbours;
    # the lowest `rest` bytes of the word hold them.
    pairs = padded.view("<u2")
    pairs = (pairs & 0xFF) | (pairs >> 8 << rest)
    fours = _little(pairs).view("<u4")
    fours = (fours & 0xFFFF) | (fours >> 16 << 2 * rest)
    eights = _little(fours).view("<u8")
    eights = (eights & 0xFFFFFFFF) | (eights >> 32 << 4 * rest)
    packed = _little(eights).view(np.uint8).reshape(-1, 8)[:, :rest].tobytes()
    return packed[: packed_length(len(numbers), rest)]


def unpack(data: memoryview, count: int, width: int, what: str) -> Integers:
    """Return `count` integers that :func:`pack` packed, in the narrowest dtype.

    Raises
    ------
    PayloadError
        If the bits that fill up the last byte are not zero.
    """
    planes, rest = divmod(width, 8)
    dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    numbers: Integers = _unpack_rest(data[count * planes :], count, rest, what)
    if width > 8:
        numbers = numbers.astype(dtype)
    for plane in reversed(range(planes)):
        low = np.frombuffer(data[count * plane : count * (plane + 1)], np.uint8)
        numbers = (numbers << 8) | low if width > 8 else low
    return numbers


def _unpack_rest(
    data: memoryview, count: int, rest: int, what: str
) -> NDArray[np.uint8]:
    if not rest:
        return np.zeros(count, np.uint8)
    used = count * rest % 8
    if used and data[-1] >> used:
        raise PayloadError(f"{what}: the bits after the last one are not zero")
    groups = -(-count // 8)
    padded = np.zeros(groups * rest + 8, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    # From every `rest` bytes on a word of 64 bits, whose lowest `rest` bytes count.
    eights = np.ndarray(groups, "<u8", padded, strides=rest) & ((1 << 8 * rest) - 1)
    eights = (eights & ((1 << 4 * rest) - 1)) | (eights >> 4 * rest << 32)
    fours = _little(eights).view("<u4")
    fours = (fours & ((1 << 2 * rest) - 1)) | (fours >> 2 * rest << 16)
    pairs = _little(fours).view("<u2")
    pairs = (pairs & ((1 << rest) - 1)) | (pairs >> rest << 8)
    return _little(pairs).view(np.uint8)[:count]


def _little(numbers: Integers) -> Integers:
    """Return numbers in little-endian order; numpy's results are in the machine's."""
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)


def pack_bits(flags: NDArray[np.bool_]) -> bytes:
    """Pack flags, one bit each."""
    return np.packbits(flags, bitorder="little").tobytes()


def unpack_bits(data: memoryview, count: int, what: str) -> NDArray[np.bool_]:
    """Return `count` flags that :func:`pack_bits` packed into `data`.

    Raises
    ------
    PayloadError
        If the bits that fill up the last byte are not zero.
    """
    if count % 8 and data[-1] >> count % 8:
        raise PayloadError(f"{what}: the bits after the last one are not zero")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return flags[:count].view(np.bool_)


def set_bit(numbers: NDArray[np.uint32], flags: NDArray[np.bool_], at: int) -> None:
    """Set bit `at` of each number that is flagged."""
    for chunk in chunks(len(numbers)):
        numbers[chunk] |= np.left_shift(flags[chunk], at, dtype=np.uint32)


def pack_unary(numbers: Integers) -> bytes:
    """Code each number n in unary: n zero bits, then a one bit."""
    flags = np.zeros(int(numbers.sum(dtype=np.int64)) + len(numbers), np.bool_)
    end = -1
    for start in range(0, len(numbers), _RUN):
        ends = numbers[start : start + _RUN].astype(np.int64)
        ends += 1
        ends[0] += end
        np.add.accumulate(ends, out=ends)
        flags[ends] = True
        end = int(ends[-1])
    return pack_bits(flags)


def unpack_unary(
    data: memoryview, count: int, limit: int, what: str
) -> NDArray[np.uint32]:
    """Return the `count` numbers that :func:`pack_unary` coded.

    Parameters
    ----------
    limit : int
        Most bits that the stream may have.

    Raises
    ------
    PayloadError
        If it has more bits, or more or fewer numbers, or does not end with the last of
        them.
    """
    if len(data) > (min(limit, _LONGEST_UNARY) + 7) // 8:
        raise PayloadError(f"{what}: {len(data)} bytes, at most {limit} bits allowed")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    # Counted first: a stream of ones would take 32 times its size as numbers.
    found = np.count_nonzero(flags)
    if found != count:
        raise PayloadError(f"{what}: {found} numbers, expected {count}")
    if bool(len(data)) != bool(count) or (count and not flags[-8:].any()):
        raise PayloadError(f"{what}: bytes follow its last number")
    numbers = np.empty(count, np.uint32)
    done, before = 0, -1
    for start in range(0, len(flags), 8 * _RUN):
        ends = np.flatnonzero(flags[start : start + 8 * _RUN].view(np.bool_))
        if not len(ends):
            continue
        own = numbers[done : done + len(ends)]
        np.subtract(ends[1:], ends[:-1], out=own[1:], casting="unsafe")
        own[1:] -= 1
        own[0] = start + int(ends[0]) - before - 1
        done, before = done + len(ends), start + int(ends[-1])
    return numbers
