"""The payload: header, layout, positions, values, checksum.

``docs/wire-format.md`` says the same byte by byte, for clients in other languages.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.codec.bits import Reader
from flasc_flwr.core.codec.blocks import cut
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import FORMATS, VALUE_FORMATS, Coded, ValueFormat
from flasc_flwr.core.codec.positions import decode_positions, encode_positions
from flasc_flwr.core.codec.values import Coding, Split, decode_values, encode_values
from flasc_flwr.core.layout import FINGERPRINT_BYTES, Layout
from flasc_flwr.core.sparsity import SparseVector

VERSION = 2

_MAGIC = b"FLSC"
_HEADER = struct.Struct("<4sBBBBQ8sIIIIIII")
_SECTION_END = 1 << 32
_MAX_LAYOUT_BYTES = 1 << 22


def encode(
    sparse: SparseVector,
    values: str = "float32",
    *,
    layout: Layout | None = None,
    carry_layout: bool = False,
    seed: int | None = None,
) -> bytes:
    """Encode a sparse vector.

    Parameters
    ----------
    sparse : SparseVector
        What to encode.
    values : str
        Value format: ``float32`` (exact), ``bfloat16`` (8 significant bits),
        ``float16`` (11 significant bits down to 2**-29 of the largest value),
        ``int8`` or ``int4`` (127 or 7 levels of the largest of each 1024 or 256
        values). Rounded to nearest, unless a `seed` is given.
    layout : Layout, optional
        The layout of the vector, whose fingerprint the payload then carries, and
        along whose tensors the positions are coded.
    carry_layout : bool
        Also carry the layout itself, for a receiver that has never seen it.
    seed : int, optional
        Round ``int8`` and ``int4`` at random, up or down, such that the expected
        value is the exact one; the same seed gives the same bytes. The other formats
        round to nearest all the same.

    Raises
    ------
    ValueError
        If the value format is unknown, the layout has another size, or a value isn't
        finite in that format.
    """
    if values not in VALUE_FORMATS:
        raise ValueError(
            f"value format is {values!r}, allowed are {', '.join(VALUE_FORMATS)}"
        )
    if layout is not None and layout.size != sparse.size:
        raise ValueError(f"vector has {sparse.size} entries, layout {layout.size}")
    if carry_layout and layout is None:
        raise ValueError("there is no layout to carry")
    if not np.isfinite(sparse.values).all():
        raise ValueError("values are not all finite")
    number = VALUE_FORMATS.index(values)
    form = FORMATS[number]
    coded = form.to_coded(sparse.values, seed)
    if coded.magnitudes.max(initial=0) > form.largest:
        raise ValueError(f"a value is too large for {values}")
    positions = encode_positions(
        sparse.positions, cut(sparse.positions, sparse.size, layout)
    )
    streams = encode_values(coded.negative, coded.magnitudes)
    carried = (
        zlib.compress(layout.to_json().encode(), 9) if carry_layout and layout else b""
    )
    lengths = [
        len(section)
        for section in (
            carried, positions.table, positions.unary, streams.table, streams.high
        )
    ]  # fmt: skip
    if max(lengths) >= _SECTION_END:
        raise ValueError(f"a section of {max(lengths)} bytes is too long")
    fields = (
        _MAGIC, VERSION, number, streams.split.coding, streams.split.width,
        sparse.size, layout.fingerprint if layout else bytes(FINGERPRINT_BYTES),
        streams.split.base, *lengths,
    )  # fmt: skip
    body = b"".join(
        (
            carried,
            positions.table, positions.bitmaps, positions.unary, positions.low,
            coded.scales, streams.signs, streams.low, streams.table, streams.high,
        )
    )  # fmt: skip
    crc = zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0)))
    return _HEADER.pack(*fields, crc) + body


def decode(
    payload: bytes, size: int, *, fingerprint: bytes | None = None
) -> SparseVector:
    """Decode a payload, in time and memory that are linear in `size`.

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
        If anything about the payload is wrong: what, and where.
    """
    head, reader = _open(payload)
    if head.size != size:
        raise PayloadError(f"payload has size {head.size}, expected {size}")
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise PayloadError(
            f"payload is of layout {head.fingerprint.hex()}, "
            f"expected {fingerprint.hex()}"
        )
    reader.take(head.layout_length, "layout")
    positions = decode_positions(reader, size, head.table_length, head.unary_length)
    count = len(positions)
    scales = bytes(reader.take(head.form.scale_bytes(count), "scales"))
    negative, magnitudes = decode_values(
        reader, count, head.split, head.frequencies_length, head.high_length
    )
    reader.finish("payload")
    if magnitudes.max(initial=0) > head.form.largest:
        raise PayloadError(f"values: one is outside the range of {head.form.name}")
    values = head.form.to_values(Coded(negative, magnitudes, scales))
    if not np.isfinite(values).all():
        raise PayloadError("values are not all finite")
    return SparseVector(size, positions, values)


def read_layout(payload: bytes) -> Layout:
    """Return the layout that a payload carries.

    Raises
    ------
    PayloadError
        If it carries none, or one that contradicts its own header.
    """
    head, reader = _open(payload)
    if not head.layout_length:
        raise PayloadError("payload carries no layout")
    carried = reader.take(head.layout_length, "layout")
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(carried, _MAX_LAYOUT_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise PayloadError(
                f"layout: not one deflated text of at most {_MAX_LAYOUT_BYTES} bytes"
            )
        layout = Layout.from_json(text.decode())
    except PayloadError:
        raise
    except (zlib.error, ValueError) as error:
        raise PayloadError(f"layout: {error}") from None
    if layout.size != head.size or layout.fingerprint != head.fingerprint:
        raise PayloadError("layout does not match the payload's size and fingerprint")
    return layout


@dataclass(frozen=True)
class _Head:
    """The header's fields, as far as they can be checked alone."""

    form: ValueFormat
    split: Split
    size: int
    fingerprint: bytes
    layout_length: int
    table_length: int
    unary_length: int
    frequencies_length: int
    high_length: int


def _open(payload: bytes) -> tuple[_Head, Reader]:
    if len(payload) < _HEADER.size:
        raise PayloadError(f"payload has {len(payload)} bytes, less than its header")
    magic, version, form, coding, width, size, fingerprint, base, *lengths, crc = (
        _HEADER.unpack_from(payload)
    )
    if magic != _MAGIC:
        raise PayloadError(f"payload begins with {magic!r}, expected {_MAGIC!r}")
    if version != VERSION:
        raise PayloadError(
            f"payload has version {version}, this is {VERSION}: "
            "server and client need the same version of flasc-flwr"
        )
    start = zlib.crc32(bytes(4), zlib.crc32(memoryview(payload)[: _HEADER.size - 4]))
    if zlib.crc32(memoryview(payload)[_HEADER.size :], start) != crc:
        raise PayloadError("checksum does not match")
    if form >= len(FORMATS):
        raise PayloadError(f"payload has unknown value format {form}")
    if coding > max(Coding):
        raise PayloadError(f"payload has unknown value coding {coding}")
    if width > 31:
        raise PayloadError(f"payload splits off {width} low bits, at most 31 are there")
    reader = Reader(payload)
    reader.take(_HEADER.size, "header")
    split = Split(Coding(coding), width, base)
    return _Head(FORMATS[form], split, size, fingerprint, *lengths), reader
