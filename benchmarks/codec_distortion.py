"""Compare coders on recorded vectors: the bytes that each needs for the same error.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/codec_distortion.py \
        --vectors digits.npz news.npz --others OTHER/bin/python

The vectors are those of ``benchmarks/record_masks.py``. Every coder is measured at many
settings of its dial, from streams that are decoded again; the errors compared at are
those of top-k at four densities in ``int4``, ``int8`` and ``bfloat16``. ``--others`` is
the Python of an environment with coders that need their own packages
(`distortion_others.py`); without it they are left out. Writes
``codec-distortion-curves.csv`` (the points measured) and ``codec-distortion.csv``
(bytes at equal error), and prints the tables of docs/performance.md; ``--tables``
prints them from the committed files, ``--docs FILE`` puts them into a page.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from codec_vectors import Case, recorded
from distortion_coders import TODAY, points
from distortion_curves import METRICS, Point, bytes_at, frontier
from distortion_tables import insert, tables

RESULTS = Path(__file__).parent / "results"
POINTS = "codec-distortion-curves.csv"
EQUAL = "codec-distortion.csv"
OTHERS = Path(__file__).parent / "distortion_others.py"

REFERENCE_DENSITIES = ("1", "0.25", "0.125", "0.0625")
ERRORS = (0.003, 0.97)
RATES = (
    ("eden", "1"),
    ("eden", "2"),
    ("nf4", "64"),
    ("blockwise8", "4096"),
    ("blockwise8", "256"),
)
"""Coders without a dial in their usual form: compared at their own error, too."""

COLUMNS = {
    "today": TODAY,
    **{name: (name,) for name in (*TODAY, "step", "deepcabac")},
    "deepcabac-rdoq": ("deepcabac", "deepcabac-rdoq"),
    **{
        name: (name,)
        for name in (
            "deepcabac-trellis", "ternary", "eden", "eden-unbiased",
            "nf4", "blockwise8", "sz3", "zfp",
        )
    },
}  # fmt: skip
"""What is compared, and the coders of which the best counts."""


def cases(paths: Iterable[Path]) -> Iterator[Case]:
    """Yield the vectors of some files, each named after its file."""
    for path in paths:
        for case in recorded(path):
            yield replace(case, name=f"{path.stem} {case.name}")


def others(case: Case, python: str) -> list[Point]:
    """Measure the coders that live in another environment."""
    assert case.layout is not None
    with tempfile.TemporaryDirectory() as folder:
        vector, made = Path(folder) / "vector.npz", Path(folder) / "points.csv"
        parts = case.layout.unflatten(case.vector).values()
        np.savez(vector, **{f"{i:04}": part for i, part in enumerate(parts)})
        subprocess.run([python, str(OTHERS), str(vector), str(made)], check=True)
        return [replace(point, vector=case.name) for point in read_points(made)]


def read_points(path: Path) -> list[Point]:
    """Return the points of a file."""
    with path.open(newline="", encoding="utf-8") as opened:
        return [
            Point(
                row["vector"], row["coder"], row["variant"], row["setting"],
                int(row["bytes"]), float(row["whole"]), float(row["tensors"]),
            )
            for row in csv.DictReader(opened)
        ]  # fmt: skip


def equal_errors(measured: list[Point]) -> Iterator[dict[str, Any]]:
    """Yield a row for each reference and metric of one vector.

    Each column has the bytes that its coder needs for the reference's error, or nothing
    if that is outside what was measured.
    """
    columns = {
        name: [point for point in measured if point.coder in coders]
        for name, coders in COLUMNS.items()
    }
    for reference in _references(measured):
        for metric in METRICS:
            error = getattr(reference, metric)
            row = {
                "vector": reference.vector,
                "reference": reference.coder,
                "setting": reference.setting,
                "metric": metric,
                "bytes": reference.bytes,
                "error": error,
            }
            for name, own in columns.items():
                length = bytes_at(error, own, metric)
                row[name] = "" if length is None else round(length)
            yield row


def _references(measured: list[Point]) -> Iterator[Point]:
    wanted = [(name, setting) for setting in REFERENCE_DENSITIES for name in TODAY]
    for coder, setting in (*wanted, *RATES):
        found = [p for p in measured if (p.coder, p.setting) == (coder, setting)]
        yield min(found, key=lambda point: point.bytes)


def worth_keeping(measured: list[Point]) -> list[Point]:
    """Return the points that no cheaper one of their coder beats, of a useful error.

    The others would make a file of a megabyte, and no table needs them.
    """
    kept: set[Point] = set()
    for coder in {point.coder for point in measured}:
        own = [point for point in measured if point.coder == coder]
        kept.update(*(frontier(own, metric) for metric in METRICS))
    low, high = ERRORS
    return [point for point in measured if point in kept and low < point.whole < high]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, numbers to five significant digits."""
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            cells = row.values()
            writer.writerow(f"{c:.5g}" if isinstance(c, float) else c for c in cells)
    print(f"{len(rows)} rows: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, nargs="+", default=[])
    parser.add_argument("--others", help="Python that has nncodec, pysz, zfpy")
    parser.add_argument("--into", type=Path, default=RESULTS, help="folder of the CSV")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--docs", type=Path, help="page to put the tables into")
    given = parser.parse_args()
    if not given.tables:
        measured: list[Point] = []
        rows: list[dict[str, Any]] = []
        for case in cases(given.vectors):
            own = list(points(case))
            own += others(case, given.others) if given.others else []
            rows += equal_errors(own)
            measured += worth_keeping(own)
        if not rows:
            parser.error("--vectors must name files of vectors, got none")
        write(given.into / POINTS, [asdict(point) for point in measured])
        write(given.into / EQUAL, rows)
    with (given.into / EQUAL).open(newline="", encoding="utf-8") as opened:
        text = tables(list(csv.DictReader(opened)))
    print(text)
    if given.docs:
        insert(given.docs, text)


if __name__ == "__main__":
    main()
