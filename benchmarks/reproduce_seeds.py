"""Tables with every seed: what so many MB bring, and what an accuracy costs."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from reproduce_results import Curve, Setting, first
from reproduce_tables import percent, table


def budgets(runs: Mapping[str, Setting], megabytes: Sequence[float]) -> None:
    """Print the accuracy after each number of MB.

    There is no entry before a run's first evaluation of something trained, and after
    its end: it might have gone on.
    """
    rows = [
        [
            name,
            f"{setting.curve[-1].round}",
            f"{setting.curve[-1].megabytes:.1f}",
            *(after(setting.seeds, limit) for limit in megabytes),
            percent(setting.last),
        ]
        for name, setting in runs.items()
    ]
    limits = [f"{limit:g} MB" for limit in megabytes]
    head = ["run", "rounds", "MB in all", *limits, "last accuracy, %"]
    table(head, rows, "20 Newsgroups: accuracy, %, after so many MB, both ways")


def after(seeds: Sequence[Curve], megabytes: float) -> str:
    """Return the seeds' mean accuracy after so many MB.

    Between two evaluations it is taken to change evenly with the MB.
    """
    trained = [[point for point in seed if point.round] for seed in seeds]
    if not all(s[0].megabytes <= megabytes <= s[-1].megabytes for s in trained):
        return "-"
    each_seed = [
        np.interp(
            megabytes,
            [point.megabytes for point in seed],
            [point.accuracy for point in seed],
        )
        for seed in trained
    ]
    return f"{fmean(map(float, each_seed)):.1%}"[:-1]


def costs(runs: Mapping[str, Setting], targets: Sequence[float]) -> None:
    """Print each seed's round and MB when it first reached an accuracy."""
    rows = []
    for name, setting in runs.items():
        cells = [name, percent(setting.last)]
        for target in targets:
            places = [first(curve, target) for curve in setting.seeds]
            cells.append(each([p and str(p.round) for p in places]))
            cells.append(each([p and f"{p.megabytes:.1f}" for p in places]))
        rows.append(cells)
    columns = [f"{what} to {t:.0%}" for t in targets for what in ("round", "MB")]
    head = ["rule", "last accuracy, %", *columns]
    table(head, rows, "AG News: what an accuracy costs, seed by seed")


def each(cells: Sequence[str | None]) -> str:
    """Return the mean of numbers and each of them; "-" for one that is not there."""
    listed = ", ".join(cell or "-" for cell in cells)
    if not all(cells) or len(cells) == 1:
        return listed
    return f"{fmean(float(cell) for cell in cells if cell):.1f} ({listed})"
