"""The payload: header with checksum, layout, positions, values.

``docs/wire-format.md`` specifies it byte by byte, for clients in other languages.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.codec.bits import Reader
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import FORMATS, VALUE_FORMATS, Quantized, ValueFormat
from flasc_flwr.core.codec.positions import decode_positions, encode_positions
from flasc_flwr.core.codec.values import Coding, Split, decode_values, encode_values
from flasc_flwr.core.layout import FINGERPRINT_BYTES, Layout
from flasc_flwr.core.ranges import choice
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
        The vector.
    values : str
        Value format: ``float32`` (exact), ``bfloat16`` (8 significant bits),
        ``float16`` (11 significant bits down to 2**-29 of the largest value), ``int8``
        or ``int4`` (127 or 7 levels up to the largest of each 1024 or 256 values).
        Rounded to nearest, unless `seed` is given.
    layout : Layout, optional
        Layout of the vector. The payload carries its fingerprint, and blocks of
        positions follow its tensors, which takes fewer bytes.
    carry_layout : bool
        Whether the payload carries the layout, for a receiver that does not have it.
    seed : int, optional
        Rounds ``int8`` and ``int4`` stochastically, so that the expected value is
        exact; the same seed gives the same bytes. Other formats ignore it.

    Returns
    -------
    bytes
        The payload.

    Raises
    ------
    ValueError
        If the value format is unknown, the layout has another size, or a value is not
        finite in that format.
    """
    choice(*VALUE_FORMATS).require("value-format", values)
    if layout is not None and layout.size != sparse.size:
        raise ValueError(f"vector has {sparse.size} entries, its layout {layout.size}")
    if carry_layout and layout is None:
        raise ValueError("carry_layout needs a layout, got None")
    if not np.isfinite(sparse.values).all():
        raise ValueError("values are not all finite")
    number = VALUE_FORMATS.index(values)
    form = FORMATS[number]
    quantized = form.quantize(sparse.values, seed)
    if quantized.magnitudes.max(initial=0) > form.largest:
        raise ValueError(f"a value is too large for {values}")
    positions = encode_positions(
        sparse.positions, block_bounds(sparse.positions, sparse.size, layout)
    )
    streams = encode_values(quantized.negative, quantized.magnitudes)
    carried = (
        zlib.compress(layout.to_json().encode(), 9) if carry_layout and layout else b""
    )
    lengths = [
        len(section)
        for section in (
            carried, positions.table, positions.unary, streams.frequencies, streams.high
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
            quantized.scales, streams.signs, streams.low,
            streams.frequencies, streams.high,
        )
    )  # fmt: skip
    crc = zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0)))
    return _HEADER.pack(*fields, crc) + body


def decode(
    payload: bytes, size: int, *, fingerprint: bytes | None = None
) -> SparseVector:
    """Decode a payload, in time and memory linear in `size`.

    Parameters
    ----------
    payload : bytes
        The payload; it may come from a stranger.
    size : int
        N, the expected length of the vector.
    fingerprint : bytes, optional
        The expected fingerprint of the layout; by default any.

    Raises
    ------
    PayloadError
        If the payload is corrupt, or has another size or fingerprint.
    """
    header, reader = _read_header(payload)
    if header.size != size:
        raise PayloadError(f"payload has size {header.size}, expected {size}")
    if fingerprint is not None and header.fingerprint != fingerprint:
        raise PayloadError(
            f"payload is of layout {header.fingerprint.hex()}, "
            f"expected {fingerprint.hex()}"
        )
    reader.take(header.layout_length, "layout")
    positions = decode_positions(reader, size, header.table_length, header.unary_length)
    count = len(positions)
    scales = bytes(reader.take(header.form.scale_bytes(count), "scales"))
    negative, magnitudes = decode_values(
        reader, count, header.split, header.frequencies_length, header.high_length
    )
    reader.finish("payload")
    if magnitudes.max(initial=0) > header.form.largest:
        raise PayloadError(f"values: one is outside the range of {header.form.name}")
    values = header.form.dequantize(Quantized(negative, magnitudes, scales))
    if not np.isfinite(values).all():
        raise PayloadError("values are not all finite")
    return SparseVector(size, positions, values)


def read_layout(payload: bytes) -> Layout:
    """Return the layout that a payload carries.

    Raises
    ------
    PayloadError
        If it carries none, or one that contradicts its header.
    """
    header, reader = _read_header(payload)
    if not header.layout_length:
        raise PayloadError("payload carries no layout")
    carried = reader.take(header.layout_length, "layout")
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
    if layout.size != header.size or layout.fingerprint != header.fingerprint:
        raise PayloadError("layout does not match the payload's size and fingerprint")
    return layout


@dataclass(frozen=True)
class _Header:
    """The fields of a header."""

    form: ValueFormat
    split: Split
    size: int
    fingerprint: bytes
    layout_length: int
    table_length: int
    unary_length: int
    frequencies_length: int
    high_length: int


def _read_header(payload: bytes) -> tuple[_Header, Reader]:
    """Return the checked header, and a reader of what follows it."""
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
    return _Header(FORMATS[form], split, size, fingerprint, *lengths), reader
