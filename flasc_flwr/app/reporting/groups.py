"""Runs grouped by all settings but the seed, and how a group is labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.schedules import decaying_to

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
        What its runs have in common, as :func:`in_effect` has it.
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
    labels = _different([_label(settings, everyone) for settings in everyone])
    return [
        Group(
            label,
            settings,
            {key: settings[key] for key in _differing(everyone)},
            members,
        )
        for label, (settings, members) in zip(labels, gathered.values(), strict=True)
    ]


def _different(labels: Sequence[str]) -> list[str]:
    """Return labels with a number where an earlier one is the same.

    Figures name their curves by them. Densities are rounded in them, and the number of
    clients of a run without a round is not known.
    """
    counts: Counter[str] = Counter()
    found = []
    for label in labels:
        counts[label] += 1
        found.append(f"{label} #{counts[label]}" if counts[label] > 1 else label)
    return found


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that differ, the most telling first."""
    keys = [*_FIRST, *(key for key in settings[0] if key not in _FIRST)]
    # The number of clients of a run that has not ended is not known yet.
    known = {key: {repr(s[key]) for s in settings} - {"None"} for key in keys}
    return [key for key in keys if len(known[key]) > 1]


def in_effect(config: RunConfig) -> dict[str, Any]:
    """Return a run's settings in effect, without the seed.

    ``densities`` are the two of the first sparse round, or where one falls from 1 the
    one that it ends at; ``value format`` is never ``auto``, and ``lora-rank`` is None
    where there is no LoRA adapter.
    """
    method = config.compose()
    own = config.budget()
    allotment = Allotment(method=method, most=own, decay=config.decay)
    budget = allotment.at(method.dense_rounds + 1, own)
    pruned = method.schedule is decaying_to
    down = own.download_density if pruned else budget.download_density
    auto = config.value_format == "auto"
    return {
        "method": config.method,
        "densities": (down, budget.upload_density),
        "value format": method.value_format if auto else config.value_format,
        **{k: v for k, v in config.to_dict().items() if k not in ("method", *_APART)},
        "lora-rank": config.lora_rank if config.has_rank else None,
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
