"""The table of foreign apps, from the rows of their runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
HEAD = (
    "app",
    "parameters",
    "metric",
    "without",
    "with",
    "difference",
    "MB without",
    "MB with",
    "times fewer",
    "seconds a call, without / with",
)


def table(rows: Iterable[Row]) -> list[str]:
    """Return the table's lines: one for each app, the mean over its seeds.

    The difference is in points for an accuracy, and in percent of the value without the
    two lines otherwise.
    """
    by_app: dict[str, dict[bool, list[Row]]] = {}
    for row in rows:
        by_app.setdefault(row["app"], {}).setdefault(row["lines"], []).append(row)
    lines = ["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|"]
    for app, runs in by_app.items():
        without, with_lines = runs.get(False, []), runs.get(True, [])
        if without and with_lines:
            cells = _cells(without, with_lines)
            lines.append("| " + " | ".join([app, *cells]) + " |")
    return lines


def _cells(without: Sequence[Row], with_lines: Sequence[Row]) -> list[str]:
    first = without[0]
    name = first["metric"].split(":")[-1]
    fraction = name in ("accuracy", "auc")
    runs = [*without, *with_lines]
    failed = next((row["failed"] for row in runs if row.get("failed")), None)
    if failed:
        return ["", name, *("" for _ in HEAD[4:]), f"failed: {failed}"]
    before = _mean(without, "value")
    cells = [f"{first['parameters']:,}", f"{name}, {first['rounds']} rounds"]
    after = _mean(with_lines, "value")
    if fraction:
        difference = f"{100 * (after - before):+.1f} points"
    else:
        difference = f"{100 * (after / before - 1):+.1f} %"
    spent, left = (_mean(r, "down") + _mean(r, "up") for r in (without, with_lines))
    return [
        *cells,
        _value(before, fraction),
        _value(after, fraction),
        difference,
        f"{spent / 1e6:.2f}",
        f"{left / 1e6:.2f}",
        f"{spent / left:.1f}",
        " / ".join(
            f"{_mean(runs, 'call_seconds'):.2f}" for runs in (without, with_lines)
        ),
    ]


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _value(value: float, fraction: bool) -> str:
    return f"{100 * value:.1f} %" if fraction else f"{value:.4g}"
