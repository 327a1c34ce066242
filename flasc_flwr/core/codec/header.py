"""The header of a payload: what it is of, and whether it arrived as it was sent."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import FINGERPRINT_BYTES

VERSION = 3

MAGIC = b"FLSC"

_CHECKSUM = slice(7, 11)
_SHORTEST = 12
_FINGERPRINT, _LAYOUT = 1, 2
_LONGEST_SIZE = 10
"""Bytes of a varint below 2**64."""


@dataclass(frozen=True)
class Header:
    """The fields of a header.

    Attributes
    ----------
    number : int
        The number of the value format.
    size : int
        N.
    fingerprint : bytes
        The layout's fingerprint; empty if the payload has none.
    layout : bytes or memoryview
        The layout that the payload carries, compressed; empty if it carries none.
    """

    number: int
    size: int
    fingerprint: bytes = b""
    layout: bytes | memoryview = b""


def check_magic(payload: bytes) -> int:
    """Return the version of a payload, the byte after its magic.

    Raises
    ------
    PayloadError
        If it has another magic, or is shorter than any header.
    """
    if len(payload) < _SHORTEST:
        raise PayloadError(f"payload has {len(payload)} bytes, less than its header")
    magic = payload[: len(MAGIC)]
    if magic != MAGIC:
        raise PayloadError(f"payload begins with {magic!r}, expected {MAGIC!r}")
    return payload[len(MAGIC)]


def seal(header: Header, body: bytes) -> bytes:
    """Return the payload of a header and a body."""
    flags = _FINGERPRINT * bool(header.fingerprint) | _LAYOUT * bool(header.layout)
    start = MAGIC + bytes([VERSION, header.number, flags])
    parts: list[bytes | memoryview] = [header.fingerprint, varint(header.size)]
    if header.layout:
        parts += [varint(len(header.layout)), header.layout]
    rest = b"".join((*parts, body))
    return start + zlib.crc32(rest, zlib.crc32(start)).to_bytes(4, "little") + rest


def read_header(payload: bytes) -> tuple[Header, Reader]:
    """Return the checked header of a payload of this version, and a reader of its body.

    Raises
    ------
    PayloadError
        If the checksum does not match, or a field is invalid.
    """
    reader = Reader(payload)
    start = reader.take(_CHECKSUM.start, "header")
    checksum = int.from_bytes(reader.take(4, "header"), "little")
    rest = memoryview(payload)[_CHECKSUM.stop :]
    if zlib.crc32(rest, zlib.crc32(start)) != checksum:
        raise PayloadError("checksum does not match")
    number, flags = start[5], start[6]
    if flags not in (0, _FINGERPRINT, _FINGERPRINT | _LAYOUT):
        raise PayloadError(f"payload has unknown flags {flags}")
    fingerprint = b""
    if flags & _FINGERPRINT:
        fingerprint = bytes(reader.take(FINGERPRINT_BYTES, "layout fingerprint"))
    size = reader.varint("size", longest=_LONGEST_SIZE)
    layout: bytes | memoryview = b""
    if flags & _LAYOUT:
        layout = reader.take(reader.varint("length of the layout"), "layout")
        if not layout:
            raise PayloadError("layout: empty")
    return Header(number, size, fingerprint, layout), reader
