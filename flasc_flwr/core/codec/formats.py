"""Value formats: each maps values to signs and integer magnitudes, and back.

Larger absolute values have larger magnitudes: that is all that the coder of magnitudes
(`values`) relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers, set_bit
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Vector, chunks

_SIGN32 = np.uint32(0x80000000)
_FLOAT16_TOP = 15
"""Values are scaled to below 2**15, half of float16's range."""


@dataclass(frozen=True)
class Quantized:
    """Values in a format.

    Attributes
    ----------
    negative : NDArray[np.bool_], shape (k,)
        The signs.
    magnitudes : unsigned integers, shape (k,)
        The magnitudes.
    scales : bytes
        Scales of the format, as bytes.
    """

    negative: NDArray[np.bool_]
    magnitudes: Integers
    scales: bytes = b""


@dataclass(frozen=True)
class ValueFormat:
    """A value format.

    Attributes
    ----------
    name : str
        Its name; its number in a payload is its index in `FORMATS`.
    largest : int
        The largest magnitude of a finite value.
    quantize : Callable[[Vector, int | None], Quantized]
        Takes values, shape (k,), and a seed of stochastic rounding or None.
    dequantize : Callable[[Quantized], Vector]
        The inverse.
    scale_bytes : Callable[[int], int]
        Number of bytes of the scales of k values.
    """

    name: str
    largest: int
    quantize: Callable[[Vector, int | None], Quantized]
    dequantize: Callable[[Quantized], Vector]
    scale_bytes: Callable[[int], int] = lambda count: 0


def _quantize_float32(values: Vector, seed: int | None) -> Quantized:
    bits = values.view(np.uint32)
    return Quantized(np.signbit(values), bits & ~_SIGN32)


def _dequantize_float32(quantized: Quantized) -> Vector:
    bits = quantized.magnitudes.astype(np.uint32)
    set_bit(bits, quantized.negative, 31)
    return bits.view(np.float32)


def _quantize_bfloat16(values: Vector, seed: int | None) -> Quantized:
    """Round to 8 significant bits, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    rounded &= 0x7FFF
    return Quantized(np.signbit(values), rounded.astype(np.uint16))


def _dequantize_bfloat16(quantized: Quantized) -> Vector:
    bits = quantized.magnitudes.astype(np.uint32)
    set_bit(bits, quantized.negative, 15)
    bits <<= 16
    return bits.view(np.float32)


def _quantize_float16(values: Vector, seed: int | None) -> Quantized:
    """Scale by a power of two, then round to nearest, ties to even.

    Unscaled, updates below 6e-5 would be subnormal, and below 3e-8 zero.
    """
    top = float(np.abs(values).max(initial=0.0))
    shift = _FLOAT16_TOP - int(np.frexp(top)[1]) if top else 0
    halves = np.empty(len(values), np.float16)
    for chunk in chunks(len(values)):
        halves[chunk] = np.ldexp(values[chunk].astype(np.float64), shift)
    bits = halves.view(np.uint16)
    bits &= np.uint16(0x7FFF)
    if shift == _FLOAT16_TOP - 128:
        # The largest may be rounded to 2**128, which is not a float32.
        np.minimum(bits, 0x77FF, out=bits)
    scale = shift.to_bytes(2, "little", signed=True)
    return Quantized(np.signbit(values), bits, scale)


def _dequantize_float16(quantized: Quantized) -> Vector:
    shift = int.from_bytes(quantized.scales, "little", signed=True)
    values = np.empty(len(quantized.magnitudes), np.float32)
    with np.errstate(over="ignore"):
        for chunk in chunks(len(values)):
            halves = quantized.magnitudes[chunk].astype(np.uint16)
            halves |= quantized.negative[chunk].astype(np.uint16) << 15
            values[chunk] = np.ldexp(halves.view(np.float16).astype(np.float64), -shift)
    return values


def _grouped_integers(name: str, largest: int, group: int) -> ValueFormat:
    """Return a format of integers up to `largest`, with one scale per `group` values.

    Symmetric absmax quantization: the scale, a float32, is the largest absolute value
    of the group divided by `largest`. Rounds to nearest, or with a seed stochastically:
    up with a probability of the fraction cut off, which is unbiased (Alistarh et al.,
    QSGD, arXiv 1610.02132).
    """

    def starts(count: int) -> NDArray[np.int64]:
        return np.arange(0, count, group)

    def quantize(values: Vector, seed: int | None) -> Quantized:
        sizes = np.abs(values)
        scales = np.zeros(0, np.float32)
        if len(values):
            scales = np.maximum.reduceat(sizes, starts(len(values)))
            scales /= np.float32(largest)
            # A group of tiny values must not have the scale 0, nor may the largest
            # value of a group overflow when it is multiplied again.
            np.maximum(scales, np.finfo(np.float32).smallest_subnormal, out=scales)
            with np.errstate(over="ignore"):
                over = np.isinf(scales * np.float32(largest))
            scales[over] = np.nextafter(scales[over], np.float32(0))
        for chunk, scale in _of_each(scales, group, len(values)):
            sizes[chunk] /= scale
        if seed is None:
            np.rint(sizes, out=sizes)
        else:
            sizes += np.random.default_rng(seed).random(len(values), np.float32)
        levels = np.minimum(sizes, largest).astype(np.uint8)
        return Quantized(np.signbit(values), levels, scales.astype("<f4").tobytes())

    def dequantize(quantized: Quantized) -> Vector:
        scales = np.frombuffer(quantized.scales, "<f4").astype(np.float32)
        if not np.all(scales > 0):
            raise PayloadError("scales: one is not above 0")
        values = quantized.magnitudes.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk, scale in _of_each(scales, group, len(values)):
                values[chunk] *= scale
        set_bit(values.view(np.uint32), quantized.negative, 31)
        return values

    return ValueFormat(
        name, largest, quantize, dequantize, lambda count: 4 * -(-count // group)
    )


def _of_each(scales: Vector, group: int, count: int) -> Iterator[tuple[slice, Vector]]:
    """Yield the scale of each of `count` values, by chunks, which have whole groups."""
    for chunk in chunks(count):
        own = scales[chunk.start // group : chunk.stop // group]
        yield chunk, np.repeat(own, group)[: count - chunk.start]


FORMATS = (
    ValueFormat("float32", 0x7F7FFFFF, _quantize_float32, _dequantize_float32),
    ValueFormat("bfloat16", 0x7F7F, _quantize_bfloat16, _dequantize_bfloat16),
    ValueFormat(
        "float16", 0x7BFF, _quantize_float16, _dequantize_float16, lambda count: 2
    ),
    _grouped_integers("int8", 127, 1024),
    _grouped_integers("int4", 7, 256),
)
