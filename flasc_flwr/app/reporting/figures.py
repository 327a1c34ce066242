"""Figures in one style: curves with bands, dots by name, stacked bars.

Colours are Okabe and Ito's, which can be told apart with any kind of colour vision;
line styles and markers differ too. Labels are to the right of the axes.
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
from matplotlib.ticker import FuncFormatter, MaxNLocator, StrMethodFormatter

from flasc_flwr.app.reporting.line_labels import label_ends
from flasc_flwr.app.reporting.series import Series, integer_x, on_one_axis

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
_WIDTH = 6.4
_HEIGHT = 3.4
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


def _percent(value: float, _position: int) -> str:
    """Return a tick's label: ticks of small ranges are not whole per cents."""
    return f"{100 * value:.4g}%"


def curves(
    series: Mapping[str, Sequence[Series]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    y_percent: bool = False,
    y_counts: bool = False,
) -> Figure:
    """Draw one curve for each label: the mean of its series, with a band.

    Parameters
    ----------
    series : Mapping[str, Sequence[Series]]
        Label to the ``(x, y)`` of each seed. The band spans the lowest to the highest
        seed. Seeds whose x differ, as megabytes do, are interpolated, over the range
        that all of them have.
    x_label, y_label : str
        Labels of the axes, with units.
    log_x : bool
        Logarithmic x axis, without points whose x is not above 0.
    y_percent : bool
        y are fractions, shown as percentages.
    y_counts : bool
        y are counts: the axis starts at 0 and has integers.

    Returns
    -------
    Figure
        6.4 inches wide; higher for many labels.
    """
    with mpl.rc_context(_STYLE):
        figure = _figure(max(_HEIGHT, 0.2 * len(series)))
        axes = figure.subplots()
        lines = []
        lasting = zip(cycle(_LINES), cycle(_MARKERS), strict=False)
        styles = zip(series.items(), cycle(PALETTE), lasting, strict=False)
        for (label, seeds), colour, (style, marker) in styles:
            x, ys = on_one_axis(seeds, positive=log_x)
            if not len(x):
                continue
            lines += axes.plot(
                x,
                ys.mean(axis=0),
                color=colour,
                linestyle=style,
                marker=marker,
                markersize=4,
                markevery=max(1, len(x) // _MARKS),
                label=_literal(label),
            )
            if len(ys) > 1:
                axes.fill_between(
                    x, ys.min(axis=0), ys.max(axis=0), color=colour, alpha=0.18, lw=0
                )
        if log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        elif integer_x(series):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if y_percent:
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        if y_counts:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
        axes.set(xlabel=x_label, ylabel=y_label)
        label_ends(axes, lines, gap=0.2 / (figure.get_figheight() - 0.7))
    return figure


def dots(
    values: Mapping[str, Mapping[str, float]], *, x_label: str, x_percent: bool = False
) -> Figure:
    """Draw a row for each name, with a dot for each label.

    Parameters
    ----------
    values : Mapping[str, Mapping[str, float]]
        Label to the value of each name.
    x_label : str
        What the values are, with their unit.
    x_percent : bool
        They are fractions, shown as percentages.
    """
    names = list(dict.fromkeys(name for of in values.values() for name in of))
    with mpl.rc_context(_STYLE):
        figure = _figure(max(0.8 + 0.17 * len(names), 0.2 * len(values)))
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
                label=_literal(label),
            )
        axes.set_yticks(range(len(names)), map(_literal, names), fontsize=7.5)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        if x_percent:
            axes.set_xlim(-0.02, 1.02)
            axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set(xlabel=x_label)
        _legend(figure, axes)
    return figure


def stacks(values: Mapping[str, Mapping[str, float]], *, x_label: str) -> Figure:
    """Draw a bar for each label, with a part for each name.

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
        figure = _figure(max(0.8 + 0.32 * len(labels), 0.2 * len(names)))
        axes = figure.subplots()
        begin = np.zeros(len(labels))
        styles = zip(names, cycle(PALETTE), cycle(_HATCHES), strict=False)
        for name, colour, hatch in styles:
            part = np.array([values[label].get(name, 0.0) for label in labels])
            axes.barh(
                [_literal(label) for label in labels],
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
        _legend(figure, axes)
    return figure


def _literal(text: str) -> str:
    """Return a label whose dollar signs do not begin a formula."""
    return text.replace("$", r"\$")


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend to the right of the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        where: Any = "outside right upper"
        figure.legend(handles, labels, loc=where)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as ``stem.svg`` and ``stem.png``; return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg, png = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    with mpl.rc_context(_STYLE):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=_DPI)
    return svg, png
