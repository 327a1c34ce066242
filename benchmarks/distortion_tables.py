"""The tables of docs/performance.md about bytes at equal error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean, median

Row = dict[str, str]

FIRST, LAST = "<!-- codec_distortion.py -->", "<!-- end of codec_distortion.py -->"
DENSITIES = {"0.25": "1/4", "0.125": "1/8", "0.0625": "1/16"}
KINDS = {
    "weights": "server vector",
    "update": "client update",
    "difference": "server difference",
}
COLUMNS = {
    "int4": "`int4`",
    "today": "older formats",
    "step": "`step`",
    "deepcabac": "DeepCABAC",
    "deepcabac-rdoq": "DeepCABAC, RDOQ",
    "deepcabac-trellis": "DeepCABAC, trellis",
    "ternary": "sparse ternary",
    "eden": "EDEN",
    "sz3": "SZ3",
    "zfp": "ZFP",
}
RATES = {
    ("eden", "1"): "EDEN, 1 bit",
    ("eden", "2"): "EDEN, 2 bits",
    ("nf4", "64"): "NF4, blocks of 64",
    ("blockwise8", "4096"): "8 bit, blocks of 4096",
    ("blockwise8", "256"): "8 bit, blocks of 256",
}


def tables(rows: Sequence[Row]) -> str:
    """Return the three tables as Markdown, each below what it shows."""
    base = base_of(rows)
    title = COLUMNS[base]
    parts = {
        f"Bytes at the error of `int4`, geometric means over the rounds; in brackets "
        f"the ratio to {title}:": equal_bytes(rows, base),
        f"For each vector and density above, bytes over those of {title}: least, "
        f"median, most, and how often below 1. At equal error; at equal mean of the "
        f"tensors' errors; and where neither may be larger:": standing(rows, base),
        "Coders of a fixed rate, at their own error: their bytes over those of "
        "others:": rates(rows, base),
    }
    return "\n\n".join(f"{what}\n\n" + "\n".join(of) for what, of in parts.items())


def base_of(rows: Sequence[Row]) -> str:
    """Return what others are compared with: ``step``, if it was measured."""
    return "step" if any(row["step"] for row in rows) else "today"


def equal_bytes(rows: Sequence[Row], base: str) -> Iterator[str]:
    """Yield the bytes at the error of ``int4``, as means over the rounds."""
    yield _line(["vectors", "density", "error", *COLUMNS.values()])
    yield _line(["---"] * (3 + len(COLUMNS)))
    groups = {(_task(row), _what(row)): None for row in rows}
    for task, what in groups:
        for setting, density in DENSITIES.items():
            own = [
                row
                for row in _at_int4(rows, setting)
                if (_task(row), _what(row)) == (task, what) and _whole(row)
            ]
            error = f"{_mean(row['error'] for row in own):.3f}"
            cells = [_bytes_cell(own, name, base) for name in COLUMNS]
            yield _line([f"{task}, {KINDS.get(what, what)}", density, error, *cells])


def rates(rows: Sequence[Row], base: str) -> Iterator[str]:
    """Yield what coders of a fixed rate need, over what others need for their error."""
    others = {name: COLUMNS[name] for name in ("today", "deepcabac-rdoq")}
    if base == "step":
        others = {"step": COLUMNS["step"], **others}
    yield _line(["coder", "vectors", "error", *(f"over {o}" for o in others.values())])
    yield _line(["---"] * (3 + len(others)))
    for (coder, setting), title in RATES.items():
        for what, kind in KINDS.items():
            own = [
                row
                for row in rows
                if (row["reference"], row["setting"]) == (coder, setting)
                and _what(row) == what
                and _whole(row)
            ]
            if not own:
                continue
            error = f"{_mean(row['error'] for row in own):.2g}"
            times = [_times(own, name) for name in others]
            yield _line([title, kind, error, *times])


def standing(rows: Sequence[Row], base: str) -> Iterator[str]:
    """Yield each coder's bytes over the base's: least, median, most, how often below.

    For the error of the whole vector, for its mean over the tensors, and for the bytes
    at which neither is larger.
    """
    yield _line(["coder", "equal error", "equal mean", "neither larger"])
    yield _line(["---"] * 4)
    for name, title in COLUMNS.items():
        if name == base or not any(row[name] for row in rows):
            continue
        whole, mean = (_ratios(rows, name, base, [m]) for m in ("whole", "tensors"))
        both = _ratios(rows, name, base, ["whole", "tensors"])
        yield _line([title, *(_spread(found) for found in (whole, mean, both))])


def _ratios(
    rows: Sequence[Row], name: str, base: str, metrics: Sequence[str]
) -> list[float]:
    """Return bytes over the base's for each vector and density of the tables."""
    found = []
    for setting in DENSITIES:
        vectors: dict[str, list[Row]] = {}
        for row in _at_int4(rows, setting):
            if row["metric"] in metrics:
                vectors.setdefault(row["vector"], []).append(row)
        for own in vectors.values():
            if all(row[name] and row[base] for row in own):
                needed = [max(float(row[n]) for row in own) for n in (name, base)]
                found.append(needed[0] / needed[1])
    return found


def _spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    below = sum(ratio < 1 for ratio in ratios)
    middle = f"{min(ratios):.2f}, {median(ratios):.2f}, {max(ratios):.2f}"
    return f"{middle}; below in {below} of {len(ratios)}"


def _at_int4(rows: Sequence[Row], setting: str) -> list[Row]:
    return [r for r in rows if (r["reference"], r["setting"]) == ("int4", setting)]


def _bytes_cell(rows: Sequence[Row], name: str, base: str) -> str:
    if not all(row[name] for row in rows):
        return "-"
    length = _mean(row[name] for row in rows)
    if name == base or not all(row[base] for row in rows):
        return f"{length:,.0f}"
    return f"{length:,.0f} ({length / _mean(row[base] for row in rows):.2f})"


def _times(rows: Sequence[Row], name: str) -> str:
    if not all(row[name] for row in rows):
        return "-"
    return f"{_mean(str(float(row['bytes']) / float(row[name])) for row in rows):.2f}"


def _mean(values: Iterable[str]) -> float:
    """Return the geometric mean, so that ratios of means are means of ratios."""
    return exp(fmean(log(float(value)) for value in values))


def _whole(row: Row) -> bool:
    return row["metric"] == "whole"


def _task(row: Row) -> str:
    return row["vector"].split(" round ")[0]


def _what(row: Row) -> str:
    return row["vector"].rsplit(" ", 1)[-1]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def insert(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(FIRST)
    _, mark, after = rest.partition(LAST)
    if not mark:
        raise ValueError(f"{page} must contain {FIRST} and {LAST}")
    made = f"{before}{FIRST}\n{text}\n{LAST}{after}"
    page.write_text(made, encoding="utf-8")
