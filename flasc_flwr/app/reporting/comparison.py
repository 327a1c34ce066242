"""Groups of runs side by side: one row for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from flasc_flwr.app.reporting.groups import Group, limits_in_words
from flasc_flwr.app.reporting.run_files import Rows
from flasc_flwr.app.reporting.runs import SavedRun


def compare(groups: Iterable[Group], target: float | None = None) -> Rows:
    """Return one row for each group.

    Parameters
    ----------
    groups : Iterable[Group]
        What to compare.
    target : float, optional
        An accuracy in (0, 1].

    Returns
    -------
    list[dict[str, Any]]
        Means over the seeds. ``accuracy`` is the last that was measured,
        ``best_accuracy`` the highest; both with ``_min`` and ``_max``. Bytes are those
        of whole messages, in MB (10**6 bytes). ``times_less_than_dense`` is as
        ``reduction_vs_dense_float32`` of the summary. With a `target`,
        ``reached_target`` is the number of runs that reached it, and
        ``megabytes_to_target`` their mean MB, both ways, until they first did.
    """
    return [_row(one, target) for one in groups]


def _row(one: Group, target: float | None) -> dict[str, Any]:
    runs, settings = one.runs, one.settings
    sums = {
        key: [run.total(key) for run in runs]
        for key in ("message_bytes_down", "message_bytes_up")
    }
    row = {
        "label": one.label,
        "method": settings["method"],
        "download_density": settings["densities"][0],
        "upload_density": settings["densities"][1],
        "most_down": limits_in_words(settings)[0],
        "most_up": limits_in_words(settings)[1],
        "value_format": settings["value format"],
        "lora_rank": settings["lora-rank"],
        "clients": settings["clients"],
        "status": settings["status"],
        "seeds": sorted(run.config.seed for run in runs),
        "rounds": max(run.rounds for run in runs),
        **_spread("accuracy", [_accuracies(run)[-1:] for run in runs]),
        **_spread("best_accuracy", [_accuracies(run) for run in runs]),
        "megabytes_down": fmean(sums["message_bytes_down"]) / 1e6,
        "megabytes_up": fmean(sums["message_bytes_up"]) / 1e6,
        "times_less_than_dense": _mean([times_less(run) for run in runs]),
        "seconds": _mean([run.seconds for run in runs]),
    }
    row["differing"] = dict(one.differing)
    if target is not None:
        reached = [megabytes_to(run, target) for run in runs]
        row["target"] = target
        row["megabytes_to_target"] = _mean(reached)
        row["reached_target"] = sum(mb is not None for mb in reached)
    return row


def megabytes_to(run: SavedRun, accuracy: float) -> float | None:
    """Return the MB sent, both ways, until an accuracy was first reached."""
    rows, megabytes = run.known("accuracy")
    pairs = zip(rows, megabytes, strict=True)
    return next((mb for row, mb in pairs if row["accuracy"] >= accuracy), None)


def times_less(run: SavedRun) -> float | None:
    """Return how many times fewer message bytes were sent than in dense float32.

    None if that is not known, or nothing was sent.
    """
    if "reduction_vs_dense_float32" in run.summary:
        known: float | None = run.summary["reduction_vs_dense_float32"]
        return known
    sent = run.total("message_bytes_down") + run.total("message_bytes_up")
    dense = run.total("dense_float32_bytes")
    return dense / sent if sent and dense else None


def _accuracies(run: SavedRun) -> list[float]:
    return [row["accuracy"] for row in run.known("accuracy")[0]]


def _spread(name: str, values: list[list[float]]) -> dict[str, float | None]:
    """Return mean, minimum and maximum over the runs of the best value of each."""
    highest = [max(of_run) for of_run in values if of_run]
    return {
        name: _mean(highest),
        f"{name}_min": min(highest, default=None),
        f"{name}_max": max(highest, default=None),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
