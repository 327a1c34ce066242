"""Coders that need packages of their own; runs in any Python that has them.

    python benchmarks/distortion_others.py VECTOR.npz POINTS.csv

reads the tensors of one vector, in order, and writes a `Point` for each setting of each
coder: real streams, decoded again. A package that is not installed is skipped, and
named. No other module of this project is imported, except `distortion_curves`.
"""

from __future__ import annotations

import argparse
import csv
import importlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from distortion_curves import Point, errors

LAMBDAS = (0.0, 0.5, 1.0, 2.0, 4.0)
NAMES = (("deepcabac", "deepcabac-rdoq"), ("deepcabac-trellis",) * 2)
UNARY = 10
DENSITY = 3
"""The step of a quantization parameter qp is about ``2 ** (qp / 2**DENSITY)``."""

Sent = tuple[str, str, str, int, list[np.ndarray]]


def deepcabac(tensors: list[np.ndarray], rms: float) -> Iterator[Sent]:
    """DeepCABAC (ISO/IEC 15938-17) by nncodec; the dial is the step.

    Contexts and profile as `nncodec.nn.encode` sets them by default, with rows of zeros
    skipped. One stream for all tensors, without the standard's headers of units.
    Lambda is the weight of the rate in rounding ("RDOQ"); 0 rounds to the nearest.
    """
    module = importlib.import_module("nncodec.extensions.deepCABAC")
    middle = int(np.floor(np.log2(rms) * 2**DENSITY))
    for trellis in (0, 1):
        for weight in LAMBDAS:
            first, stride = (-16, 2) if weight else (-64, 1)
            for qp in range(middle + first, middle + 41, stride):
                stream = _coded(module, tensors, trellis, weight, qp)
                decoded = _decoded(module, stream, tensors, trellis, qp)
                name = NAMES[trellis][weight > 0]
                yield name, f"lambda {weight:g}", str(qp), len(stream), decoded


def _coded(
    module: Any, tensors: list[np.ndarray], trellis: int, weight: float, qp: int
) -> np.ndarray:
    quantizer, encoder = module.Encoder(), module.Encoder()
    for x in tensors:
        q = np.zeros(x.shape, np.int32)
        quantizer.initCtxModels(UNARY, 0)
        used = quantizer.quantLayer(x, q, trellis, DENSITY, qp, weight, UNARY, 0, 1)
        if used != qp:
            raise ValueError(f"qp {qp} was replaced by {used}")
        empty = np.array([q.ndim > 1 and not row.any() for row in q], np.int32)
        encoder.initCtxModels(UNARY + 1, 1)
        encoder.encodeLayer(q, trellis, 0, 1, 0, 1, empty, *_no_history(module), 0, 0)
    return encoder.finish()


def _decoded(
    module: Any, stream: np.ndarray, tensors: list[np.ndarray], trellis: int, qp: int
) -> list[np.ndarray]:
    decoder, decoded = module.Decoder(), []
    decoder.setStream(stream)
    for x in tensors:
        q, y = np.zeros(x.shape, np.int32), np.zeros(x.shape, np.float32)
        decoder.initCtxModels(UNARY + 1)
        decoder.decodeLayer(q, trellis, 0, 1, 0, *_no_history(module), 0, 0)
        decoder.dequantLayer(y, q, DENSITY, qp, 0)
        decoded.append(y)
    return decoded


def _no_history(module: Any) -> tuple[Any, np.ndarray]:
    return module.HdspMode.AlwaysOff, np.zeros(2, np.int8)


def sz3(tensors: list[np.ndarray], rms: float) -> Iterator[Sent]:
    """SZ3 by pysz, the whole vector as one array; the dial is the error bound."""
    module = importlib.import_module("pysz")
    whole = np.concatenate([x.ravel() for x in tensors])
    for algorithm in ("INTERP_LORENZO", "LORENZO_REG", "NOPRED"):
        for exponent in range(-24, 21):
            config = module.szConfig()
            config.errorBoundMode = module.szErrorBoundMode.ABS
            config.absErrorBound = rms * 2 ** (exponent / 4)
            config.cmprAlgo = getattr(module.szAlgorithm, algorithm)
            stream, _ = module.sz.compress(whole, config)
            decoded, _ = module.sz.decompress(stream, np.float32, whole.shape)
            bound = f"2^{exponent / 4:g}"
            yield "sz3", algorithm, bound, stream.size, _cut(decoded, tensors)


def zfp(tensors: list[np.ndarray], rms: float) -> Iterator[Sent]:
    """ZFP by zfpy, the whole vector as one array; the dial is the error bound."""
    module = importlib.import_module("zfpy")
    whole = np.concatenate([x.ravel() for x in tensors])
    for exponent in range(-6, 8):
        stream = module.compress_numpy(whole, tolerance=rms * 2.0**exponent)
        decoded = module.decompress_numpy(stream)
        yield "zfp", "", f"2^{exponent}", len(stream), _cut(decoded, tensors)


def _cut(whole: np.ndarray, tensors: list[np.ndarray]) -> list[np.ndarray]:
    return np.split(whole, np.cumsum([x.size for x in tensors])[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vector", type=Path)
    parser.add_argument("points", type=Path)
    given = parser.parse_args()
    with np.load(given.vector) as file:
        tensors = [np.ascontiguousarray(file[key], np.float32) for key in file.files]
    squares = sum(float(np.square(x, dtype=np.float64).sum()) for x in tensors)
    rms = float(np.sqrt(squares / sum(x.size for x in tensors)))
    with given.points.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(Point.__annotations__))
        writer.writeheader()
        for coder in (deepcabac, sz3, zfp):
            try:
                for name, variant, setting, length, decoded in coder(tensors, rms):
                    error = errors(tensors, decoded)
                    point = Point("", name, variant, setting, length, *error)
                    writer.writerow(asdict(point))
            except ImportError as error:
                print(f"{coder.__name__}: skipped, {error}")


if __name__ == "__main__":
    main()
