"""Measure the codec: bits beside the entropy, and speed beside the alternatives.

    python benchmarks/codec.py [--quick] [--json FILE] [--masks FILE.npz]

Every figure is measured: bytes are ``len(payload)``, times the best of some repeats on
one thread. ``--masks`` adds vectors that ``benchmarks/record_masks.py``
recorded in a real run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from codec_vectors import GPT2_SIZE, Case, adapters, recorded, synthetic

from flasc_flwr.core.codec import VALUE_FORMATS, decode, encode
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.formats import FORMATS
from flasc_flwr.core.codec.positions import encode_positions
from flasc_flwr.core.sparsity import SparseVector, top_k

SIZES = (150_000, GPT2_SIZE, 10_000_000, 40_000_000)
DENSITIES = tuple(2.0**-exponent for exponent in range(11))
_PATIENCE = 1.0
QUICK_SIZES = (150_000, GPT2_SIZE)
QUICK_DENSITIES = (1 / 4, 1 / 16, 1 / 64)


@dataclass(frozen=True)
class Row:
    """What one value format costs on one mask."""

    case: str
    size: int
    density: float
    kept: int
    values: str
    payload_bytes: int
    position_bits: float
    position_entropy: float
    value_bits: float
    value_entropy: float
    bits_per_parameter: float
    ratio: float
    select_ms: float
    encode_ms: float
    decode_ms: float
    add_ms: float
    encode_mparams_s: float
    decode_mparams_s: float


@dataclass(frozen=True)
class Alternative:
    """What another way costs on one mask: bytes, or time, or both."""

    case: str
    size: int
    density: float
    name: str
    bytes: int | None
    milliseconds: float


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the shortest time of a call: after one to warm up, at most a second."""
    call()
    times: list[float] = []
    while len(times) < repeats and sum(times) < _PATIENCE:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def entropy(counts: np.ndarray) -> float:
    seen = counts[counts > 0]
    return float(seen @ np.log2(seen.sum() / seen)) if len(seen) else 0.0


def position_entropy(sparse: SparseVector, case: Case) -> float:
    """Return the bits of a mask that is even within each tensor."""
    edges = [0, sparse.size]
    if case.layout:
        edges = [place.start for _, place in case.layout.slices()] + [sparse.size]
    kept = np.diff(np.searchsorted(sparse.positions, edges))
    lengths = np.diff(edges)
    return sum(
        entropy(np.array([k, n - k])) for k, n in zip(kept, lengths, strict=True)
    )


def measure(case: Case, density: float, repeats: int) -> Iterator[Row]:
    """Measure all value formats on one mask."""
    vector, layout = case.vector, case.layout
    sparse = top_k(vector, density)
    kept, size = max(1, sparse.kept), len(vector)
    select = milliseconds(lambda: top_k(vector, density), repeats)
    coded = encode_positions(
        sparse.positions, block_bounds(sparse.positions, size, layout)
    )
    positions = sum(map(len, (coded.table, coded.bitmaps, coded.unary, coded.low)))
    accumulator = np.zeros(size, np.float32)
    for form in FORMATS:
        payload = encode(sparse, form.name, layout=layout)
        decoded = decode(payload, size)

        def add(update: SparseVector = decoded) -> None:
            accumulator[update.positions] += update.values

        values = form.quantize(sparse.values, None)
        symbols = 2 * values.magnitudes.astype(np.int64) + values.negative
        _, counts = np.unique(symbols, return_counts=True)
        encoding = milliseconds(
            lambda name=form.name: encode(sparse, name, layout=layout), repeats
        )
        decoding = milliseconds(lambda data=payload: decode(data, size), repeats)
        yield Row(
            case.name,
            size,
            density,
            sparse.kept,
            form.name,
            len(payload),
            8 * positions / kept,
            position_entropy(sparse, case) / kept,
            8 * (len(payload) - positions) / kept,
            entropy(counts) / kept,
            8 * len(payload) / size,
            4 * size / len(payload),
            select,
            encoding,
            decoding,
            milliseconds(add, repeats),
            size / (select + encoding) / 1000,
            size / decoding / 1000,
        )


def alternatives(case: Case, density: float, repeats: int) -> Iterator[Alternative]:
    """Measure what else one could do with the same mask."""
    vector = case.vector
    sparse = top_k(vector, density)
    size, kept = len(vector), sparse.kept
    cut_at = max(0, size - max(1, int(size * density)))

    def row(name: str, call: Callable[[], Any]) -> Alternative:
        made = call()
        length = len(made) if isinstance(made, bytes) else None
        spent = milliseconds(call, repeats)
        return Alternative(case.name, size, density, name, length, spent)

    def coordinates() -> bytes:
        return sparse.positions.astype("<i4").tobytes() + sparse.values.tobytes()

    def bitmap() -> bytes:
        mask = np.zeros(size, np.bool_)
        mask[sparse.positions] = True
        return zlib.compress(np.packbits(mask).tobytes(), 6) + sparse.values.tobytes()

    yield row("np.partition(x)", lambda: np.partition(vector, cut_at))
    yield row("np.partition(abs(x))", lambda: np.partition(np.abs(vector), cut_at))
    yield row("int32 + float32 coordinates", coordinates)
    yield row("bitmap + zlib, float32", bitmap)
    try:
        import zstandard
    except ImportError:
        print("zstd of the masked array: skipped, zstandard is not installed")
    else:
        compressor = zstandard.ZstdCompressor(level=3)
        masked = sparse.densify().tobytes()
        yield row("zstd of the masked array", lambda: compressor.compress(masked))
    try:
        import torch
    except ImportError:
        print("torch.topk: skipped, torch is not installed")
    else:
        torch.set_num_threads(1)
        tensor = torch.from_numpy(vector)
        yield row("torch.topk(abs(x))", lambda: torch.topk(tensor.abs(), max(1, kept)))


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the vectors to measure, one at a time: they are large."""
    if options.only_masks:
        yield from recorded(options.masks)
        return
    for size in QUICK_SIZES if options.quick else SIZES:
        yield synthetic("gauss", size)
        if size == GPT2_SIZE:
            yield synthetic("laplace", size)
    try:
        yield from adapters()
    except ImportError as error:
        print(f"PEFT's adapters: skipped, {error}")
    if options.masks is None:
        print("recorded masks: skipped, no --masks file was given")
    elif not options.masks.exists():
        print(f"recorded masks: skipped, {options.masks} does not exist")
    else:
        yield from recorded(options.masks)


def fraction(density: float) -> str:
    return "1" if density == 1 else f"1/{round(1 / density)}"


def table(rows: list[Row], others: list[Alternative]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| vector | N | d | values | bytes | x dense fp32 | bits/param | "
        "pos. bits/nz | entropy | value bits/nz | entropy | select ms | encode ms | "
        "decode ms | add ms | enc. Mparam/s | dec. Mparam/s |",
        "|" + "---|" * 17,
    ]
    for row in rows:
        lines.append(
            f"| {row.case} | {row.size:,} | {fraction(row.density)} | {row.values} | "
            f"{row.payload_bytes:,} | {row.ratio:.1f} | {row.bits_per_parameter:.4f} | "
            f"{row.position_bits:.3f} | {row.position_entropy:.3f} | "
            f"{row.value_bits:.3f} | {row.value_entropy:.3f} | {row.select_ms:.2f} | "
            f"{row.encode_ms:.2f} | {row.decode_ms:.2f} | {row.add_ms:.2f} | "
            f"{row.encode_mparams_s:.0f} | {row.decode_mparams_s:.0f} |"
        )
    names = list(dict.fromkeys(other.name for other in others))
    lines += [
        "",
        "| vector | N | d | " + " | ".join(names) + " |",
        "|" + "---|" * (3 + len(names)),
    ]
    masks: dict[tuple[str, int, float], dict[str, str]] = {}
    for other in others:
        length = "" if other.bytes is None else f"{other.bytes:,} B, "
        cell = f"{length}{other.milliseconds:.2f} ms"
        masks.setdefault((other.case, other.size, other.density), {})[other.name] = cell
    for (case, size, density), cells in masks.items():
        lines.append(
            f"| {case} | {size:,} | {fraction(density)} | "
            + " | ".join(cells.get(name, "") for name in names)
            + " |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Return the processor as the system tells it, and the versions in use."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    except OSError:
        fields["model name"] = platform.processor()
    return (
        f"{fields.get('model name')} (family {fields.get('cpu family')}, model "
        f"{fields.get('model')}), {os.cpu_count()} cores; Python "
        f"{platform.python_version()}, numpy {np.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sizes and densities")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--masks", type=Path, help="NPZ file of a run's adapters")
    parser.add_argument("--only-masks", action="store_true", help="nothing but these")
    parser.add_argument("--repeats", type=int, default=15, help="of a timing, at most")
    options = parser.parse_args()
    rows: list[Row] = []
    others: list[Alternative] = []
    for case in cases(options):
        for density in QUICK_DENSITIES if options.quick else DENSITIES:
            rows += measure(case, density, options.repeats)
            others += alternatives(case, density, options.repeats)
    print(f"\n{machine()}")
    print(table(rows, others))
    if options.json:
        content = {
            "machine": machine(),
            "formats": VALUE_FORMATS,
            "rows": [asdict(row) for row in rows],
            "alternatives": [asdict(other) for other in others],
        }
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
