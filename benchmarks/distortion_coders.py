"""Coders that need numpy only: this project's, and four others from their papers.

Each yields what it would send in bytes, and the tensors that a receiver would decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import ceil
from statistics import NormalDist

import numpy as np
from codec_vectors import Case
from distortion_curves import Point, errors

from flasc_flwr.core.codec import VALUE_FORMATS, decode, encode
from flasc_flwr.core.sparsity import top_k

TODAY = ("int4", "int8", "bfloat16")
DENSITIES = (1.0, 0.995, 0.99, 0.98, 0.95, 0.9, *(2 ** (-i / 4) for i in range(1, 33)))
BITS = (*(2 ** (i / 4) for i in range(-16, 0)), *(1 + i / 4 for i in range(17)))
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)

Sent = tuple[str, str, str, int, list[np.ndarray]]
"""Coder, variant, setting, bytes, and the tensors as decoded."""

_NORMAL = NormalDist()


def points(case: Case) -> Iterator[Point]:
    """Measure every coder of this module on a vector."""
    for coder in CODERS:
        for name, variant, setting, length, decoded in coder(case):
            whole, each = errors(tensors(case), decoded)
            yield Point(case.name, name, variant, setting, length, whole, each)


def tensors(case: Case, vector: np.ndarray | None = None) -> list[np.ndarray]:
    """Return a vector's tensors, flat: the case's own, or another one's."""
    assert case.layout is not None
    whole = case.vector if vector is None else vector
    return [whole[place] for _, place in case.layout.slices()]


def ours(case: Case) -> Iterator[Sent]:
    """Top-k in each value format, real payloads; the dial is the density."""
    formats = [*TODAY, *(name for name in ("step",) if name in VALUE_FORMATS)]
    for density in DENSITIES:
        sparse = top_k(case.vector, density)
        for name in formats:
            payload = encode(sparse, name, layout=case.layout)
            decoded = decode(payload, sparse.size).densify()
            yield name, "", f"{density:.4g}", len(payload), tensors(case, decoded)


def ternary(case: Case) -> Iterator[Sent]:
    """Sparse ternary compression (Sattler et al. 2019, arXiv 1903.02891).

    Top-k, of which only the signs are sent, and one magnitude: their mean. Positions
    are counted as exact Golomb codes of the gaps, with the best power of two as the
    parameter; then a bit for each sign, 4 bytes of magnitude and 4 of count.
    """
    for density in DENSITIES:
        sparse = top_k(case.vector, density)
        signs = np.sign(sparse.values) * np.abs(sparse.values).mean()
        decoded = np.zeros_like(case.vector)
        decoded[sparse.positions] = signs
        bits = golomb_bits(sparse.positions) + sparse.kept
        length = 8 + ceil(bits / 8)
        yield "ternary", "", f"{density:.4g}", length, tensors(case, decoded)


def golomb_bits(positions: np.ndarray) -> int:
    """Return the length of ascending positions as Golomb codes of their gaps."""
    gaps = np.diff(positions, prepend=-1) - 1
    return min(int((gaps >> b).sum()) + (1 + b) * len(gaps) for b in range(32))


def eden(case: Case) -> Iterator[Sent]:
    """EDEN (Vargaftik et al. 2022, arXiv 2108.08842); at 1 bit it is DRIVE.

    A random rotation, then the best quantizer of a normal distribution, and a float32
    scale: ``eden`` has the one of least error, ``eden-unbiased`` the published one.
    Each tensor is rotated by itself, or the whole vector, padded to a power of two.
    Between two numbers of bits, a share of the rotated entries has one bit more. Seeds
    are not counted.
    """
    for bits in BITS:
        for variant, parts in ("tensor", tensors(case)), ("whole", [case.vector]):
            sent = [_rotated(part, bits) for part in parts]
            length = sum(size for size, _, _ in sent)
            least = np.concatenate([vector for _, vector, _ in sent])
            exact = np.concatenate([vector * gain for _, vector, gain in sent])
            setting = f"{bits:.4g}"
            yield "eden", variant, setting, length, tensors(case, least)
            yield "eden-unbiased", variant, setting, length, tensors(case, exact)


def _rotated(vector: np.ndarray, bits: float) -> tuple[int, np.ndarray, float]:
    """Return bytes, the vector decoded with least error, and what makes it unbiased."""
    size = 1 << (len(vector) - 1).bit_length()
    padded = np.zeros(size)
    padded[: len(vector)] = vector
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size)
    rotated = hadamard(padded * signs)
    square = float(rotated @ rotated)
    fewer = int(bits)
    finer = round((bits - fewer) * size)
    length = 4 + ceil((fewer * size + finer) / 8)
    if not square:
        return length, vector, 1.0
    normal = rotated * np.sqrt(size / square)
    units = nearest(normal, normal_levels(fewer))
    units[:finer] = nearest(normal[:finer], normal_levels(fewer + 1))
    product, energy = float(units @ rotated), float(units @ units)
    decoded = (hadamard(product / energy * units) * signs)[: len(vector)]
    return length, decoded.astype(np.float32), square * energy / product**2


def hadamard(vector: np.ndarray) -> np.ndarray:
    """Return the orthonormal Walsh-Hadamard transform; its own inverse."""
    half = 1
    while half < len(vector):
        pairs = vector.reshape(-1, 2, half)
        both = (pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1])
        vector = np.stack(both, axis=1).reshape(-1)
        half *= 2
    return vector / np.sqrt(len(vector))


@cache
def normal_levels(bits: int) -> np.ndarray:
    """Return the 2**bits levels of least squared error for N(0, 1) (Lloyd, Max)."""
    count = 1 << bits
    levels = np.array([_NORMAL.inv_cdf((i + 0.5) / count) for i in range(count)])
    for _ in range(300):
        inner = (levels[1:] + levels[:-1]) / 2
        density = np.array([0.0, *map(_NORMAL.pdf, inner), 0.0])
        below = np.array([0.0, *map(_NORMAL.cdf, inner), 1.0])
        levels = -np.diff(density) / np.diff(below)
    return levels


def nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the nearest of some ascending levels for each value."""
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]


def blockwise(case: Case) -> Iterator[Sent]:
    """4 or 8 bits in blocks of one scale, as NVFlare's filters and bitsandbytes do it.

    A value divided by the largest magnitude of its block (a float32) becomes the
    nearest of 16 or 256 levels. Blocks lie within tensors; NVFlare's are of 64 and of
    4096 values. The tables of levels, which NVFlare sends with every tensor (64 or
    1,024 bytes), are not counted.
    """
    kinds = (("nf4", 4, nf4_levels()), ("blockwise8", 8, dynamic_levels()))
    for name, bits, levels in kinds:
        for block in BLOCKS:
            length, decoded = 0, []
            for part in tensors(case):
                count = ceil(len(part) / block)
                padded = np.zeros(count * block)
                padded[: len(part)] = part
                grid = padded.reshape(count, block)
                scales = np.abs(grid).max(1, keepdims=True)
                scales[scales == 0] = 1
                values = nearest(grid / scales, levels) * scales
                decoded.append(values.ravel()[: len(part)])
                length += ceil(len(part) * bits / 8) + 4 * count
            yield name, "", str(block), length, decoded


def nf4_levels() -> np.ndarray:
    """Return NF4's 16 levels: quantiles of N(0, 1), 8 above and 7 below 0.

    Dettmers et al. 2023, arXiv 2305.14314; the outermost is at 0.9677083, as in
    bitsandbytes 0.50.2.
    """
    above = [_NORMAL.inv_cdf(q) for q in np.linspace(0.9677083, 0.5, 9)[:-1]]
    below = [-_NORMAL.inv_cdf(q) for q in np.linspace(0.9677083, 0.5, 8)[:-1]]
    levels = np.array(sorted([*above, 0.0, *below]))
    return levels / levels.max()


def dynamic_levels() -> np.ndarray:
    """Return the 256 levels of bitsandbytes' signed dynamic 8 bit type.

    Seven decades up to 1; decade i is divided into 2**i steps, whose middles are
    levels (Dettmers 2016, arXiv 1511.04561); then 0 and 1.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2**decade + 1)
        middles = 10.0 ** (decade - 6) * (edges[1:] + edges[:-1]) / 2
        levels += [*middles, *-middles]
    return np.array(sorted(levels))


CODERS: tuple[Callable[[Case], Iterator[Sent]], ...] = (ours, ternary, eden, blockwise)
