"""The body of a payload: what follows the header. Each value format has its own.

Those of `formats` share one: positions, the scales of the format, values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flasc_flwr.core.codec.bits import Reader
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import Quantized, ValueFormat
from flasc_flwr.core.codec.positions import decode_positions, encode_positions
from flasc_flwr.core.codec.values import decode_values, encode_values
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector


@dataclass(frozen=True)
class Body:
    """How the payloads of one value format are written and read.

    Attributes
    ----------
    name : str
        The value format.
    encode : Callable[[SparseVector, Layout | None, int | None, int], bytes]
        Takes a vector of finite values, its layout if known, a seed of stochastic
        rounding or None, and how many bytes are there for more precision. Raises
        ValueError if a value does not fit into the format.
    decode : Callable[[Reader, int], SparseVector]
        Takes a reader at the body and N; reads it to the end, or raises PayloadError.
    """

    name: str
    encode: Callable[[SparseVector, Layout | None, int | None, int], bytes]
    decode: Callable[[Reader, int], SparseVector]


def body_of(form: ValueFormat) -> Body:
    """Return the body of a format that quantizes values one by one."""

    def encode(
        sparse: SparseVector, layout: Layout | None, seed: int | None, room: int
    ) -> bytes:
        quantized = form.quantize(sparse.values, seed)
        if quantized.magnitudes.max(initial=0) > form.largest:
            raise ValueError(f"a value is too large for {form.name}")
        positions = encode_positions(
            sparse.positions, block_bounds(sparse.positions, sparse.size, layout)
        )
        values = encode_values(quantized.negative, quantized.magnitudes)
        return positions.to_bytes() + quantized.scales + values.to_bytes()

    def decode(reader: Reader, size: int) -> SparseVector:
        positions = decode_positions(reader, size)
        count = len(positions)
        scales = bytes(reader.take(form.scale_bytes(count), "scales"))
        negative, magnitudes = decode_values(reader, count)
        quantized = Quantized(negative, magnitudes, scales)
        return SparseVector(size, positions, finite_values(form, quantized))

    return Body(form.name, encode, decode)


def finite_values(form: ValueFormat, quantized: Quantized) -> np.ndarray:
    """Return the values of a format, shape (k,).

    Raises
    ------
    PayloadError
        If one is outside the format's range, or not finite.
    """
    if quantized.magnitudes.max(initial=0) > form.largest:
        raise PayloadError(f"values: one is outside the range of {form.name}")
    values = form.dequantize(quantized)
    if not np.isfinite(values).all():
        raise PayloadError("values are not all finite")
    return values
