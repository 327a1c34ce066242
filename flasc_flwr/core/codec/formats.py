"""Value formats: each turns values into signs and whole-number magnitudes, and back.

A magnitude orders like the absolute value it stands for, so that the coder behind it
(`values`) needs to know nothing of the format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Integers
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Vector

_SIGN32 = np.uint32(0x80000000)
_FLOAT16_TOP = 15
"""Scaled magnitudes lie below 2**15, half of float16's range."""


@dataclass(frozen=True)
class Coded:
    """Values in a format.

    Attributes
    ----------
    negative : NDArray[np.bool_], shape (k,)
        The signs.
    magnitudes : unsigned integers, shape (k,)
        The magnitudes.
    scales : bytes
        What else the format needs to give the values back.
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
        Its name; its number on the wire is its place in `FORMATS`.
    largest : int
        The largest magnitude of a finite value.
    to_coded : Callable
        Values, shape (k,), and the seed of stochastic rounding or None, to `Coded`.
    to_values : Callable
        The inverse.
    scale_bytes : Callable[[int], int]
        Bytes of the scales of k values.
    """

    name: str
    largest: int
    to_coded: Callable[[Vector, int | None], Coded]
    to_values: Callable[[Coded], Vector]
    scale_bytes: Callable[[int], int] = lambda count: 0


def _float32_to_coded(values: Vector, seed: int | None) -> Coded:
    bits = values.view(np.uint32)
    return Coded(np.signbit(values), bits & ~_SIGN32)


def _float32_to_values(coded: Coded) -> Vector:
    bits = coded.magnitudes.astype(np.uint32)
    bits |= np.left_shift(coded.negative, 31, dtype=np.uint32)
    return bits.view(np.float32)


def _bfloat16_to_coded(values: Vector, seed: int | None) -> Coded:
    """Round to 8 significant bits, ties to even."""
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF
    rounded >>= 16
    rounded &= 0x7FFF
    return Coded(np.signbit(values), rounded.astype(np.uint16))


def _bfloat16_to_values(coded: Coded) -> Vector:
    bits = coded.magnitudes.astype(np.uint32)
    bits |= np.left_shift(coded.negative, 15, dtype=np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _float16_to_coded(values: Vector, seed: int | None) -> Coded:
    """Scale by a power of two, then round to nearest, ties to even.

    Of unscaled deltas those below 6e-5 would be subnormal, those below 3e-8 zero.
    """
    top = float(np.abs(values).max(initial=0.0))
    shift = _FLOAT16_TOP - int(np.frexp(top)[1]) if top else 0
    halves = np.ldexp(values.astype(np.float64), shift).astype(np.float16)
    bits = halves.view(np.uint16) & np.uint16(0x7FFF)
    if shift == _FLOAT16_TOP - 128:
        # 2**128, to which the largest may be rounded, is no float32.
        np.minimum(bits, 0x77FF, out=bits)
    scale = shift.to_bytes(2, "little", signed=True)
    return Coded(np.signbit(values), bits, scale)


def _float16_to_values(coded: Coded) -> Vector:
    shift = int.from_bytes(coded.scales, "little", signed=True)
    halves = coded.magnitudes.astype(np.uint16)
    halves |= coded.negative.astype(np.uint16) << 15
    with np.errstate(over="ignore"):
        scaled = np.ldexp(halves.view(np.float16).astype(np.float64), -shift)
        return scaled.astype(np.float32)


def _whole_numbers(name: str, largest: int, block: int) -> ValueFormat:
    """Return a format of levels 0 to `largest` times one scale for `block` values.

    The scale, a float32, is the block's largest absolute value over `largest`.
    """

    def starts(count: int) -> NDArray[np.int64]:
        return np.arange(0, count, block)

    def each(scales: Vector, count: int) -> Vector:
        return np.repeat(scales, block)[:count]

    def to_coded(values: Vector, seed: int | None) -> Coded:
        sizes = np.abs(values)
        scales = np.zeros(0, np.float32)
        if len(values):
            scales = np.maximum.reduceat(sizes, starts(len(values)))
            scales /= np.float32(largest)
            # Neither may a block of tiny values be divided by zero, nor a block's
            # largest value leave the range of float32 when it is multiplied again.
            np.maximum(scales, np.finfo(np.float32).smallest_subnormal, out=scales)
            with np.errstate(over="ignore"):
                over = np.isinf(scales * np.float32(largest))
            scales[over] = np.nextafter(scales[over], np.float32(0))
        sizes /= each(scales, len(values))
        if seed is None:
            np.rint(sizes, out=sizes)
        else:
            sizes += np.random.default_rng(seed).random(len(values), np.float32)
        levels = np.minimum(sizes, largest).astype(np.uint8)
        return Coded(np.signbit(values), levels, scales.astype("<f4").tobytes())

    def to_values(coded: Coded) -> Vector:
        scales = np.frombuffer(coded.scales, "<f4").astype(np.float32)
        if not np.all(scales > 0):
            raise PayloadError("scales: one is not above 0")
        with np.errstate(over="ignore", invalid="ignore"):
            values = coded.magnitudes.astype(np.float32)
            values *= each(scales, len(values))
        np.negative(values, out=values, where=coded.negative)
        return values

    return ValueFormat(
        name, largest, to_coded, to_values, lambda count: 4 * -(-count // block)
    )


FORMATS = (
    ValueFormat("float32", 0x7F7FFFFF, _float32_to_coded, _float32_to_values),
    ValueFormat("bfloat16", 0x7F7F, _bfloat16_to_coded, _bfloat16_to_values),
    ValueFormat(
        "float16", 0x7BFF, _float16_to_coded, _float16_to_values, lambda count: 2
    ),
    _whole_numbers("int8", 127, 1024),
    _whole_numbers("int4", 7, 256),
)
VALUE_FORMATS = tuple(form.name for form in FORMATS)
