"""The committed results of benchmarks/results, read back: curves and where they go."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reproduce_runs import EXPERIMENTS


@dataclass(frozen=True)
class Point:
    """Where a run is after a round, or the mean of several runs.

    Attributes
    ----------
    round : int
        The round.
    accuracy : float
        Test accuracy of the adapter as clients receive it.
    down, up : float
        Bytes of messages until then, of all clients.
    """

    round: int
    accuracy: float
    down: float
    up: float

    @property
    def megabytes(self) -> float:
        """MB both ways."""
        return (self.down + self.up) / 1e6


Curve = Sequence[Point]


@dataclass(frozen=True)
class Setting:
    """One setting's runs, a seed each.

    Attributes
    ----------
    results : Sequence[Mapping[str, Any]]
        What benchmarks/reproduce.py kept of each.
    """

    results: Sequence[Mapping[str, Any]]

    @property
    def seeds(self) -> list[Curve]:
        """The curve of each seed."""
        return [
            [Point(row[0], row[1], row[3], row[4]) for row in result["curve"]]
            for result in self.results
        ]

    @property
    def curve(self) -> Curve:
        """The mean over the seeds, in the rounds that all of them were evaluated in."""
        by_round: dict[int, list[Point]] = defaultdict(list)
        for curve in self.seeds:
            for point in curve:
                by_round[point.round].append(point)
        return [
            Point(
                number,
                fmean(p.accuracy for p in points),
                fmean(p.down for p in points),
                fmean(p.up for p in points),
            )
            for number, points in sorted(by_round.items())
            if len(points) == len(self.results)
        ]

    @property
    def last(self) -> list[float]:
        """The last accuracy of each seed."""
        return [curve[-1].accuracy for curve in self.seeds]

    @property
    def cohort(self) -> int:
        """How many clients took part in a round."""
        result = self.results[0]
        return int(result["clients"] * result["settings"]["fraction-train"])


def read(results: Path, experiment: str) -> dict[str, Setting]:
    """Return an experiment's settings by name, in the order of its table.

    Those of another experiment that stand beside them come first. What has no result
    yet is left out.
    """
    spec = EXPERIMENTS[experiment]
    beside = {
        name: setting
        for other, names in spec.beside.items()
        for name, setting in read(results, other).items()
        if name in names
    }
    found = {
        name: [
            json.loads(file.read_text())
            for seed in spec.seeds
            if (file := results / f"{experiment}-{name}-seed{seed}.json").exists()
        ]
        for name in spec.settings
    }
    own = {name: Setting(runs) for name, runs in found.items() if runs}
    return beside | own if own else {}


def first(curve: Curve, target: float) -> Point | None:
    """Return where a curve first reaches an accuracy; None if it does not."""
    return next((point for point in curve if point.accuracy >= target), None)


def stays(curve: Curve, target: float) -> Point | None:
    """Return where a curve first reaches an accuracy that it then never falls below."""
    place = None
    for point in curve:
        if point.accuracy < target:
            place = None
        elif place is None:
            place = point
    return place


def at(curve: Curve, megabytes: float) -> float:
    """Return the accuracy of the last point within so many MB."""
    return [p for p in curve if p.megabytes <= megabytes * (1 + 1e-9)][-1].accuracy
