"""Changing payloads behind the encoder's back: docs/wire-format.md has the places."""

import zlib

VERSION_AT, FORMAT_AT, FLAGS_AT, CHECKSUM_AT, FINGERPRINT_AT = 4, 5, 6, 7, 11
SHORTEST_HEADER = 12


def resealed(payload: bytes) -> bytes:
    """Return a payload with the right checksum; shorter than that, as it is."""
    start, rest = payload[:CHECKSUM_AT], payload[CHECKSUM_AT + 4 :]
    if len(payload) < CHECKSUM_AT + 4:
        return bytes(payload)
    return bytes(start + zlib.crc32(start + rest).to_bytes(4, "little") + rest)


def changed(payload: bytes, at: int, new: bytes) -> bytes:
    """Return a payload with other bytes at a place, and the right checksum."""
    return resealed(payload[:at] + new + payload[at + len(new) :])
