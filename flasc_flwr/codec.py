"""The codec: one sparse vector as bytes, and back.

Version 1 is the plain one: a deflated bitmap of the support, then the values in
position order. Little-endian throughout::

    magic "FLSC" | version u8 | value format u8 | size u64 | fingerprint 8 bytes |
    length of layout u32 | length of bitmap u32 | length of values u32 | crc32 u32 |
    layout (deflated JSON, may be empty) | bitmap (deflated) | values
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from flasc_flwr.layout import FINGERPRINT_BYTES, Layout, Vector
from flasc_flwr.sparsity import SparseVector

VERSION = 1
VALUE_FORMATS = ("float32", "bfloat16")

_MAGIC = b"FLSC"
_HEADER = struct.Struct("<4sBBQ8sIIII")
_MAX_LAYOUT_BYTES = 1 << 24


class PayloadError(ValueError):
    """A payload that cannot be decoded: what is wrong, and where."""


def encode(
    sparse: SparseVector,
    values: str = "float32",
    *,
    layout: Layout | None = None,
    carry_layout: bool = False,
) -> bytes:
    """Encode a sparse vector.

    Parameters
    ----------
    sparse : SparseVector
        What to encode.
    values : str
        Value format: ``float32`` (exact) or ``bfloat16`` (8 significant bits,
        rounded to nearest, ties to even).
    layout : Layout, optional
        The layout of the vector, whose fingerprint the payload then carries.
    carry_layout : bool
        Also carry the layout itself, for a receiver that has never seen it.

    Raises
    ------
    ValueError
        If the value format is unknown, the layout has another size, or a value
        isn't finite in that format.
    """
    if values not in VALUE_FORMATS:
        raise ValueError(
            f"value format is {values!r}, allowed are {', '.join(VALUE_FORMATS)}"
        )
    if layout is not None and layout.size != sparse.size:
        raise ValueError(f"vector has {sparse.size} entries, layout {layout.size}")
    if carry_layout and layout is None:
        raise ValueError("there is no layout to carry")
    carried = (
        zlib.compress(layout.to_json().encode(), 9) if carry_layout and layout else b""
    )
    bitmap = np.zeros(sparse.size, bool)
    bitmap[sparse.positions] = True
    positions = zlib.compress(np.packbits(bitmap, bitorder="little").tobytes(), 6)
    stream = _pack_values(sparse.values, values)
    fingerprint = layout.fingerprint if layout else bytes(FINGERPRINT_BYTES)
    fields = (
        _MAGIC, VERSION, VALUE_FORMATS.index(values), sparse.size, fingerprint,
        len(carried), len(positions), len(stream),
    )  # fmt: skip
    body = carried + positions + stream
    crc = zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0)))
    return _HEADER.pack(*fields, crc) + body


def decode(
    payload: bytes, size: int, *, fingerprint: bytes | None = None
) -> SparseVector:
    """Decode a payload.

    Parameters
    ----------
    payload : bytes
        What :func:`encode` made, or anything a stranger sent.
    size : int
        N, the length that the vector must have.
    fingerprint : bytes, optional
        The layout fingerprint that the payload must carry.

    Raises
    ------
    PayloadError
        If anything about the payload is wrong.
    """
    values, found, own_fingerprint, sections = _open(payload)
    if found != size:
        raise PayloadError(f"payload has size {found}, expected {size}")
    if fingerprint is not None and own_fingerprint != fingerprint:
        raise PayloadError(
            f"payload is of layout {own_fingerprint.hex()}, "
            f"expected {fingerprint.hex()}"
        )
    _, positions, stream = sections
    packed = _inflate(positions, (size + 7) // 8, "bitmap")
    if len(packed) != (size + 7) // 8:
        raise PayloadError(f"bitmap has {len(packed)} bytes for {size} positions")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    if bits[size:].any():
        raise PayloadError(f"bitmap has positions above {size - 1}")
    support = np.flatnonzero(bits[:size]).astype(np.int64, copy=False)
    return SparseVector(size, support, _unpack_values(stream, values, len(support)))


def read_layout(payload: bytes) -> Layout:
    """Return the layout that a payload carries.

    Raises
    ------
    PayloadError
        If it carries none, or one that contradicts its own header.
    """
    _, size, fingerprint, (carried, _, _) = _open(payload)
    if not carried:
        raise PayloadError("payload carries no layout")
    try:
        text = _inflate(carried, _MAX_LAYOUT_BYTES, "layout").decode()
        layout = Layout.from_json(text)
    except PayloadError:
        raise
    except ValueError as error:
        raise PayloadError(f"layout: {error}") from None
    if layout.size != size or layout.fingerprint != fingerprint:
        raise PayloadError("layout does not match the payload's size and fingerprint")
    return layout


def _open(payload: bytes) -> tuple[str, int, bytes, tuple[bytes, bytes, bytes]]:
    if len(payload) < _HEADER.size:
        raise PayloadError(f"payload has {len(payload)} bytes, less than its header")
    magic, version, form, size, fingerprint, *lengths, crc = _HEADER.unpack_from(
        payload
    )
    if magic != _MAGIC:
        raise PayloadError(f"payload begins with {magic!r}, expected {_MAGIC!r}")
    if version != VERSION:
        raise PayloadError(f"payload has version {version}, this is {VERSION}")
    if form >= len(VALUE_FORMATS):
        raise PayloadError(f"payload has unknown value format {form}")
    body = payload[_HEADER.size :]
    if len(body) != sum(lengths):
        raise PayloadError(f"body has {len(body)} bytes, header says {sum(lengths)}")
    header = _HEADER.pack(magic, version, form, size, fingerprint, *lengths, 0)
    if zlib.crc32(body, zlib.crc32(header)) != crc:
        raise PayloadError("checksum does not match")
    first, second = lengths[0], lengths[0] + lengths[1]
    sections = (body[:first], body[first:second], body[second:])
    return VALUE_FORMATS[form], size, fingerprint, sections


def _inflate(data: bytes, limit: int, what: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise PayloadError(f"{what}: {error}") from None
    if len(inflated) > limit or not inflater.eof or inflater.unused_data:
        raise PayloadError(f"{what} is not {limit} deflated bytes")
    return inflated


def _pack_values(values: Vector, form: str) -> bytes:
    if not np.isfinite(values).all():
        raise ValueError("values are not all finite")
    if form == "float32":
        return values.astype("<f4").tobytes()
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    if np.any(rounded & 0x7F80 == 0x7F80):
        raise ValueError("a value is too large for bfloat16")
    return rounded.astype("<u2").tobytes()


def _unpack_values(stream: bytes, form: str, count: int) -> Vector:
    width = 4 if form == "float32" else 2
    if len(stream) != width * count:
        raise PayloadError(f"{len(stream)} bytes of values for {count} positions")
    if form == "float32":
        values = np.frombuffer(stream, "<f4").astype(np.float32)
    else:
        bits = np.frombuffer(stream, "<u2").astype(np.uint32) << np.uint32(16)
        values = bits.view(np.float32)
    if not np.isfinite(values).all():
        raise PayloadError("values are not all finite")
    return values
