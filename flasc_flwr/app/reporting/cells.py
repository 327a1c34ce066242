"""The rows of a comparison as text, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of :func:`flasc_flwr.app.reporting.comparison.compare` as text.

    Column title to text; all rows of one comparison have the same columns.
    """
    shown = {
        "runs": row["label"],
        "down": row["most_down"],
        "up": row["most_up"],
        "values": row["value_format"],
        "rank": "-" if row["lora_rank"] is None else str(row["lora_rank"]),
        "seeds": ",".join(str(seed) for seed in row["seeds"]),
        "rounds": str(row["rounds"]),
        "accuracy": _accuracy(row),
        "best": percent(row["best_accuracy"]),
        "MB down": megabytes(row["megabytes_down"]),
        "MB up": megabytes(row["megabytes_up"]),
        "less than dense": _times(row["times_less_than_dense"]),
    }
    if "target" in row:
        title = f"MB to {exact_percent(row['target'])}"
        shown[title] = _reached(row)
    return shown


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage; ``-`` for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def exact_percent(fraction: float) -> str:
    """Return a fraction that was given as a percentage, not rounded."""
    return f"{100 * fraction:.12g} %"


def megabytes(count: float | None) -> str:
    """Return a number of MB with three digits; ``-`` for None."""
    if count is None:
        return "-"
    return f"{count:,.0f}" if count >= 100 else f"{count:#.3g}"


def _accuracy(row: Mapping[str, Any]) -> str:
    least, most = row["accuracy_min"], row["accuracy_max"]
    mean = percent(row["accuracy"])
    if least is None or len(row["seeds"]) < 2:
        return mean
    return f"{mean} ({100 * least:.1f} to {100 * most:.1f})"


def _times(times: float | None) -> str:
    return "-" if times is None else f"{times:.1f} x"


def _reached(row: Mapping[str, Any]) -> str:
    runs, reached = len(row["seeds"]), row["reached_target"]
    if not reached:
        return "not reached"
    some = "" if reached == runs else f" ({reached} of {runs} runs)"
    return megabytes(row["megabytes_to_target"]) + some
