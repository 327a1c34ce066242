"""The figures of a report: what groups of runs reached, and what they sent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from flasc_flwr.app.reporting.figures import curves, dots, stacks
from flasc_flwr.app.reporting.groups import Group
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.app.reporting.series import Series
from flasc_flwr.flower.state.phases import PHASES

_MANY_TENSORS = 32
_NUMBER = re.compile(r"\d+")
_WIDE_RANGE = 4


@dataclass(frozen=True, eq=False)
class Shown:
    """One figure of a report.

    Attributes
    ----------
    name : str
        Its file's name.
    title, caption : str
        The texts above and below it.
    figure : Figure or None
        None if no run has recorded what it shows.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None


def all_figures(groups: Sequence[Group]) -> list[Shown]:
    """Return all figures of a report, in the order of its page."""
    by_bytes = _series(groups, lambda run: _against_megabytes(run, "accuracy"))
    band = "Mean over the seeds; the band spans the lowest to the highest."
    return [
        Shown(
            "accuracy-by-megabytes",
            "Accuracy by megabytes sent",
            f"Test accuracy against the bytes of all messages so far. {band}",
            _curves(
                by_bytes,
                x_label="message bytes sent, down and up (MB)",
                y_label="test accuracy",
                log_x=_is_wide(by_bytes),
                y_percent=True,
            ),
        ),
        Shown(
            "accuracy-by-round",
            "Accuracy by round",
            f"Test accuracy of the adapter as clients receive it. {band}",
            _curves(
                _series(groups, lambda run: _against_round(run, "accuracy")),
                x_label="round",
                y_label="test accuracy",
                y_percent=True,
            ),
        ),
        Shown(
            "kept-down",
            "Density of each tensor: download",
            "Fraction of its entries that a client receives after the last round.",
            _dots(groups, "kept_down", "fraction kept of the download", percent=True),
        ),
        Shown(
            "kept-up",
            "Density of each tensor: uploads",
            "Mean fraction of its entries in the uploads of the last round.",
            _dots(groups, "kept_up", "fraction kept of the uploads", percent=True),
        ),
        Shown(
            "bits-by-tensor",
            "Bits per parameter",
            "Each tensor's part of the download, encoded separately. "
            + _whole_payloads(groups),
            _dots(groups, "bits_down", "bits per parameter (32: dense float32)"),
        ),
        Shown(
            "dead-modules",
            "Dead modules",
            "LoRA modules that a client received with both factors zero: they cannot "
            "learn. Of the client with the most of them.",
            _curves(
                _series(groups, lambda run: _against_round(run, "dead_modules")),
                x_label="round",
                y_label="dead modules",
                y_counts=True,
            ),
        ),
        Shown(
            "traffic-by-client",
            "Traffic by client",
            "Message bytes of each client in the whole run, both ways. Clients with "
            "the most traffic are first.",
            _curves(
                _series(groups, _by_client),
                x_label="client, by its traffic",
                y_label="messages, down and up (MB)",
            ),
        ),
        Shown(
            "time-by-phase",
            "Time of a round",
            "Mean seconds: selecting and encoding, waiting for the clients, adding "
            "their replies, evaluating, and the rest.",
            _times(groups),
        ),
    ]


def _series(
    groups: Iterable[Group], of: Callable[[SavedRun], Series | None]
) -> dict[str, list[Series]]:
    """Return the series of each group's runs."""
    # A group without any keeps its place, so that colours are the same in all figures.
    return {
        group.label: [series for run in group.runs if (series := of(run))]
        for group in groups
    }


def _curves(series: Mapping[str, list[Series]], **options: Any) -> Figure | None:
    return curves(series, **options) if any(series.values()) else None


def _against_megabytes(run: SavedRun, key: str) -> Series | None:
    rows, megabytes = run.known(key)
    return (megabytes, [row[key] for row in rows]) if rows else None


def _against_round(run: SavedRun, key: str) -> Series | None:
    rows, _ = run.known(key)
    return (
        ([row["round"] for row in rows], [row[key] for row in rows]) if rows else None
    )


def _by_client(run: SavedRun) -> Series | None:
    sums: dict[str, int] = {}
    for row in run.traffic:
        sums[row["client"]] = sums.get(row["client"], 0) + row["message"]
    ordered = sorted(sums.values(), reverse=True)
    if not ordered:
        return None
    return list(range(1, len(ordered) + 1)), [count / 1e6 for count in ordered]


def _is_wide(series: Mapping[str, list[Series]]) -> bool:
    """Return whether some curves end at several times the x of others."""
    ends = [x[-1] for seeds in series.values() for x, _ in seeds]
    return bool(ends) and max(ends) >= _WIDE_RANGE * min(ends) > 0


def _dots(
    groups: Iterable[Group], key: str, label: str, *, percent: bool = False
) -> Figure | None:
    values = {group.label: _by_tensor(group, key) for group in groups}
    if not any(values.values()):
        return None
    return dots(values, x_label=label, x_percent=percent)


def _by_tensor(group: Group, key: str) -> dict[str, float]:
    """Return a number of each tensor, as a mean over the group's runs.

    If there are many tensors, those whose names differ only in a number, such as that
    of the layer, are combined: the mean is over their entries.
    """
    sums: dict[str, float] = {}
    entries: dict[str, int] = {}
    for run in group.runs:
        tensors = run.tensors.get("tensors", [])
        names = _short_names([tensor["name"] for tensor in tensors])
        for name, tensor in zip(names, tensors, strict=True):
            if tensor.get(key) is not None:
                size = tensor["entries"]
                sums[name] = sums.get(name, 0.0) + tensor[key] * size
                entries[name] = entries.get(name, 0) + size
    return {name: sums[name] / max(entries[name], 1) for name in sums}


def _short_names(names: list[str]) -> list[str]:
    """Return the names without their common prefix and without ``.weight``."""
    shared = os.path.commonprefix(names) if len(names) > 1 else ""
    shared = shared[: shared.rfind(".") + 1]
    short = [name.removeprefix(shared).removesuffix(".weight") for name in names]
    if len(short) > _MANY_TENSORS:
        short = [_NUMBER.sub("*", name) for name in short]
    return short


def _whole_payloads(groups: Iterable[Group]) -> str:
    """Return the bits per parameter of whole payloads, in words."""
    words = []
    for group in groups:
        known = [run.tensors["bits_per_parameter"] for run in group.runs if run.tensors]
        ways = [
            f"{fmean(bits):.2f} {way}"
            for way in ("down", "up")
            if (bits := [k[way] for k in known if k.get(way) is not None])
        ]
        if ways:
            words.append(f"{group.label}: {', '.join(ways)}")
    return f"Whole payloads: {'; '.join(words)}." if words else ""


def _times(groups: Iterable[Group]) -> Figure | None:
    values = {group.label: _seconds(group) for group in groups}
    values = {label: of for label, of in values.items() if of}
    return stacks(values, x_label="seconds a round") if values else None


def _seconds(group: Group) -> dict[str, float]:
    """Return the mean seconds of a round by phase; empty if they are not known."""
    needed = {"seconds", *(f"seconds_{phase}" for phase in PHASES)}
    rows = [
        row
        for run in group.runs
        for row in run.history
        if row["round"] > 0 and all(row.get(key) is not None for key in needed)
    ]
    if not rows:
        return {}
    means = {phase: fmean(row[f"seconds_{phase}"] for row in rows) for phase in PHASES}
    rest = fmean(row["seconds"] for row in rows) - sum(means.values())
    return means | {"rest": max(rest, 0.0)}
