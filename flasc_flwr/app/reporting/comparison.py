"""Runs side by side, grouped by all settings but the seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import Rows, SavedRun
from flasc_flwr.core.methods.allotment import Allotment

_APART = (
    "checkpoint-every",
    "device",
    "download-density",
    "export-every",
    "output-dir",
    "resume",
    "seed",
    "upload-density",
    "value-format",
)
"""Settings that do not separate groups, or only through `in_effect`."""

_SHORT = {
    "lora-rank": "rank {}",
    "value format": "{}",
    "clients": "{} clients",
}

_FIRST = ("method", "densities", "lora-rank", "value format", "clients", "task")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seed, and have the same status.

    Attributes
    ----------
    label : str
        The method, and the settings in which it differs from the other groups.
    settings : Mapping[str, Any]
        What its runs have in common; densities are those of the first sparse round.
    differing : Mapping[str, Any]
        The settings that are not the same in all groups.
    runs : Sequence[SavedRun]
        One for each seed.
    """

    label: str
    settings: Mapping[str, Any]
    differing: Mapping[str, Any]
    runs: Sequence[SavedRun]


def group(runs: Iterable[SavedRun]) -> list[Group]:
    """Return the groups of runs, in the order of their first runs.

    A label has the method, and no more settings than the groups differ in.
    """
    gathered: dict[str, tuple[dict[str, Any], list[SavedRun]]] = {}
    for run in runs:
        settings = {
            **in_effect(run.config),
            "clients": run.clients,
            "status": run.status,
        }
        gathered.setdefault(repr(settings), (settings, []))[1].append(run)
    everyone = [settings for settings, _ in gathered.values()]
    return [
        Group(
            _label(settings, everyone),
            settings,
            {key: settings[key] for key in _differing(everyone)},
            members,
        )
        for settings, members in gathered.values()
    ]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that differ, the most telling first."""
    keys = [*_FIRST, *(key for key in settings[0] if key not in _FIRST)]
    # The number of clients of a run that has not ended is not known yet.
    known = {key: {repr(s[key]) for s in settings} - {"None"} for key in keys}
    return [key for key in keys if len(known[key]) > 1]


def in_effect(config: RunConfig) -> dict[str, Any]:
    """Return a run's settings in effect, without the seed.

    ``densities`` are the two of the first sparse round, and ``value format`` is never
    ``auto``.
    """
    method = config.compose()
    own = config.budget()
    allotment = Allotment(method=method, most=own, decay=config.decay)
    budget = allotment.at(method.dense_rounds + 1, own)
    auto = config.value_format == "auto"
    return {
        "method": config.method,
        "densities": (budget.download_density, budget.upload_density),
        "value format": method.value_format if auto else config.value_format,
        **{k: v for k, v in config.to_dict().items() if k not in ("method", *_APART)},
    }


def _label(settings: Mapping[str, Any], everyone: Sequence[Mapping[str, Any]]) -> str:
    """Return the method, and as few settings as identify a group."""
    parts = [str(settings["method"])]
    alike = [other for other in everyone if other["method"] == settings["method"]]
    for key in _differing(alike):
        left = [other for other in alike if other[key] == settings[key]]
        telling = len(left) < len(alike) and settings[key] is not None
        # A status is added below in any case.
        if telling and key != "status":
            parts.append(_in_label(key, settings))
            alike = left
    if settings["status"] != "finished":
        parts.append(f"({settings['status']})")
    return " ".join(parts)


def _in_label(key: str, settings: Mapping[str, Any]) -> str:
    if key == "densities":
        down, up = limits_in_words(settings)
        return down if down == up else f"down {down}, up {up}"
    if settings[key] == "":
        return f"no {key}"
    return _SHORT.get(key, key + "={}").format(settings[key])


def in_words(density: float) -> str:
    """Return a density as people write it: ``1/16`` rather than ``0.0625``."""
    near = Fraction(density).limit_denominator(4096)
    if near.numerator == 1 and abs(near - Fraction(density)) < 1e-9:
        return str(near)
    return f"{density:.4g}"


def limits_in_words(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return how much is sent down and up: ``1/16``, ``4000 B``, or both.

    Parameters
    ----------
    settings : Mapping[str, Any]
        Those of :func:`in_effect`.
    """
    down, up = (
        _limit_in_words(density, settings[key])
        for density, key in zip(
            settings["densities"], ("download-bytes", "upload-bytes"), strict=True
        )
    )
    return down, up


def _limit_in_words(density: float, most_bytes: int) -> str:
    if not most_bytes:
        return in_words(density)
    limit = f"{most_bytes} B"
    return limit if density == 1 else f"{in_words(density)} and {limit}"


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
        for key in ("message_bytes_down", "message_bytes_up", "seconds")
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
        "seconds": fmean(sums["seconds"]),
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
