"""Figures that all look alike: curves with bands, dots by name, stacked bars.

Colours are Okabe and Ito's, which people of all kinds of colour vision can tell
apart; line styles and markers tell the same without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C7A00",
)
"""Okabe and Ito's, with a yellow dark enough for lines on white."""

_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX*<>"
_MARKS = 6
_HATCHES = ("", "///", "...", "xxx", "\\\\\\")
_WIDTH = 4.6
_DPI = 200
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9.5,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    # The same run gives the same file.
    "svg.hashsalt": "flasc-flwr",
}

Series = tuple[Sequence[float], Sequence[float]]
"""x and y of one run; x ascending."""


def curves(
    series: Mapping[str, Sequence[Series]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    y_percent: bool = False,
    y_whole: bool = False,
) -> Figure:
    """Draw one curve for each label: the mean of its series, with a band.

    Parameters
    ----------
    series : Mapping[str, Sequence[Series]]
        Label to the ``(x, y)`` of each seed. The band is from the least to the most
        over the seeds. Where their x differ, as megabytes do, they are interpolated,
        over the range that all of them have.
    x_label, y_label : str
        What the axes are, with units.
    log_x : bool
        Logarithmic x axis; x that are not above 0 are left out.
    y_percent : bool
        y are fractions, shown in per cent.
    y_whole : bool
        y are numbers of things, from 0.

    Returns
    -------
    Figure
        4.6 inches wide, to be read on a phone; higher for many labels.
    """
    with mpl.rc_context(_STYLE):
        figure = _figure(3.2 + 0.2 * len(series))
        axes = figure.subplots()
        lasting = zip(cycle(_LINES), cycle(_MARKERS), strict=False)
        styles = zip(series.items(), cycle(PALETTE), lasting, strict=False)
        for (label, seeds), colour, (line, marker) in styles:
            x, ys = _on_one_axis(seeds, positive=log_x)
            if not len(x):
                continue
            axes.plot(
                x,
                ys.mean(axis=0),
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=4,
                markevery=max(1, len(x) // _MARKS),
                label=label,
            )
            if len(ys) > 1:
                axes.fill_between(
                    x, ys.min(axis=0), ys.max(axis=0), color=colour, alpha=0.18, lw=0
                )
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        elif _counts(series):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if y_percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if y_whole:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
        axes.set(xlabel=x_label, ylabel=y_label)
        _legend(figure, axes)
    return figure


def _counts(series: Mapping[str, Sequence[Series]]) -> bool:
    """Tell whether all x are whole, as rounds are."""
    return all(
        float(x).is_integer()
        for seeds in series.values()
        for xs, _ in seeds
        for x in xs
    )


def _on_one_axis(
    seeds: Sequence[Series], *, positive: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, shape (n,), and y of each seed there, shape (seeds, n)."""
    arrays = [(np.asarray(x, float), np.asarray(y, float)) for x, y in seeds]
    if positive:
        arrays = [(x[x > 0], y[x > 0]) for x, y in arrays]
    arrays = [(x, y) for x, y in arrays if len(x)]
    if not arrays:
        return np.empty(0), np.empty((0, 0))
    first = max(x[0] for x, _ in arrays)
    last = min(x[-1] for x, _ in arrays)
    every = np.unique(np.concatenate([x for x, _ in arrays]))
    shared = every[(every >= first) & (every <= last)]
    ys = np.array([np.interp(shared, x, y) for x, y in arrays])
    return shared, ys.reshape(len(arrays), len(shared))


def dots(
    values: Mapping[str, Mapping[str, float]], *, x_label: str, x_percent: bool = False
) -> Figure:
    """Draw one line of dots for each name, a dot for each label.

    Parameters
    ----------
    values : Mapping[str, Mapping[str, float]]
        Label to the value of each name.
    x_label : str
        What the values are, with their unit.
    x_percent : bool
        They are fractions, shown in per cent.
    """
    names = list(dict.fromkeys(name for of in values.values() for name in of))
    with mpl.rc_context(_STYLE):
        figure = _figure(1.2 + 0.17 * len(names) + 0.2 * len(values))
        axes = figure.subplots()
        styles = zip(values.items(), cycle(PALETTE), cycle(_MARKERS), strict=False)
        for (label, of), colour, marker in styles:
            if not of:
                continue
            places = [names.index(name) for name in of]
            axes.plot(
                list(of.values()),
                places,
                marker,
                color=colour,
                markersize=5,
                alpha=0.85,
                clip_on=False,
                label=label,
            )
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        if x_percent:
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(xlabel=x_label)
        _legend(figure, axes)
    return figure


def stacks(values: Mapping[str, Mapping[str, float]], *, x_label: str) -> Figure:
    """Draw one bar for each label, of one part for each name.

    Parameters
    ----------
    values : Mapping[str, Mapping[str, float]]
        Label to the length of each part; all have the same names.
    x_label : str
        What the lengths are, with their unit.
    """
    labels = list(values)
    names = list(dict.fromkeys(name for of in values.values() for name in of))
    with mpl.rc_context(_STYLE):
        figure = _figure(1.5 + 0.32 * len(labels))
        axes = figure.subplots()
        begin = np.zeros(len(labels))
        styles = zip(names, cycle(PALETTE), cycle(_HATCHES), strict=False)
        for name, colour, hatch in styles:
            part = np.array([values[label].get(name, 0.0) for label in labels])
            axes.barh(
                labels,
                part,
                left=begin,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                height=0.7,
                label=name,
            )
            begin += part
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=x_label)
        _legend(figure, axes, columns=3)
    return figure


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """Put the legend below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        options: dict[str, Any] = {"loc": "outside lower left", "ncols": columns}
        figure.legend(handles, labels, handlelength=3.2, **options)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as ``stem.svg`` and ``stem.png``; return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg, png = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    with mpl.rc_context(_STYLE):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=_DPI)
    return svg, png
