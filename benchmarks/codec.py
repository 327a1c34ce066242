"""Measure the codec: bits beside the entropy, and speed beside the alternatives.

    OMP_NUM_THREADS=1 python benchmarks/codec.py [--masks FILE.npz] [--into FOLDER]

Every figure is measured: bytes are ``len(payload)``, times are the best of some repeats
on one thread. ``--masks`` measures vectors that ``benchmarks/record_masks.py`` recorded
in a real run instead. Writes ``codec.csv`` and ``codec-alternatives.csv``, or
``codec-masks.csv``; docs/performance.md says what to read from them.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from codec_vectors import GPT2_SIZE, Case, adapters, recorded, synthetic

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.formats import FORMATS
from flasc_flwr.core.codec.positions import encode_positions
from flasc_flwr.core.sparsity import SparseVector, top_k

SIZES = (150_000, GPT2_SIZE, 10_000_000, 40_000_000)
DENSITIES = tuple(2.0**-exponent for exponent in range(11))
MASK_DENSITIES = (1 / 4, 1 / 16, 1 / 64)
_PATIENCE = 1.0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """What one value format costs on one mask.

    Position and value bits are per entry kept; value bits include the header and the
    scales. `ratio` is how many times fewer bytes than dense float32 values.
    """

    case: str
    size: int
    density: float
    values: str
    payload_bytes: int
    ratio: float
    bits_per_parameter: float
    position_bits: float
    position_entropy: float
    value_bits: float
    value_entropy: float
    select_ms: float
    encode_ms: float
    decode_ms: float
    add_ms: float


@dataclass(frozen=True)
class Alternative:
    """What another encoding or selection costs on one mask."""

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
            case=case.name,
            size=size,
            density=density,
            values=form.name,
            payload_bytes=len(payload),
            ratio=4 * size / len(payload),
            bits_per_parameter=8 * len(payload) / size,
            position_bits=8 * positions / kept,
            position_entropy=position_entropy(sparse, case) / kept,
            value_bits=8 * (len(payload) - positions) / kept,
            value_entropy=entropy(counts) / kept,
            select_ms=select,
            encode_ms=encoding,
            decode_ms=decoding,
            add_ms=milliseconds(add, repeats),
        )


def alternatives(case: Case, density: float, repeats: int) -> Iterator[Alternative]:
    """Measure other selections and encodings of the same mask."""
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


def cases(sizes: Sequence[int]) -> Iterator[Case]:
    """Yield the vectors to measure, one at a time: they are large."""
    for size in sizes:
        yield synthetic("gauss", size)
        if size == GPT2_SIZE:
            yield synthetic("laplace", size)
    if GPT2_SIZE not in sizes:
        return
    try:
        yield from adapters()
    except ImportError as error:
        print(f"PEFT's adapters: skipped, {error}")


def write(file: Path, rows: Sequence[Row] | Sequence[Alternative]) -> None:
    """Write the rows as CSV, numbers to six significant digits."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(asdict(rows[0]))
        for row in rows:
            cells = asdict(row).values()
            writer.writerow(f"{c:.6g}" if isinstance(c, float) else c for c in cells)
    print(f"{len(rows)} rows: {file}")


def machine() -> str:
    """Return the processor and the versions in use."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--masks", type=Path, help="measure this file's vectors only")
    parser.add_argument("--into", type=Path, default=RESULTS, help="folder of the CSV")
    parser.add_argument("--repeats", type=int, default=15, help="of a timing, at most")
    given = parser.parse_args()
    rows: list[Row] = []
    others: list[Alternative] = []
    for case in recorded(given.masks) if given.masks else cases(given.sizes):
        for density in MASK_DENSITIES if given.masks else DENSITIES:
            rows += measure(case, density, given.repeats)
            if not given.masks:
                others += alternatives(case, density, given.repeats)
    print(machine())
    if given.masks:
        write(given.into / "codec-masks.csv", rows)
    else:
        write(given.into / "codec.csv", rows)
        write(given.into / "codec-alternatives.csv", others)


if __name__ == "__main__":
    main()
