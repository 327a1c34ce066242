"""Labels of curves, to the right of the axes: each beside the end of its curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

_SAMPLE = (1.03, 1.11)
"""Where the sample of the line lies, as fractions of the axes' width."""


def label_ends(axes: Axes, lines: Sequence[Line2D], *, gap: float) -> None:
    """Write the label of each line at the height of its end, right of the axes.

    A sample of the line stands before the label; a thin line leads to it from the end.

    Parameters
    ----------
    axes : Axes
        The axes, with their final scales and everything drawn on them.
    lines : Sequence[Line2D]
        What to label; each has at least one point.
    gap : float
        Least distance of two labels, as a fraction of the axes' height.
    """
    ends = [np.asarray(line.get_xydata(), float)[-1] for line in lines]
    # Matplotlib fits the limits to the data only when they are read.
    axes.get_xlim(), axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = spread([to_axes.transform(end)[1] for end in ends], gap=gap)
    for line, end, height in zip(lines, ends, heights, strict=True):
        axes.annotate(
            "",
            xy=(end[0], end[1]),
            xytext=(_SAMPLE[0], height),
            textcoords="axes fraction",
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.7,
                "alpha": 0.55,
                "shrinkA": 0,
                "shrinkB": 3,
            },
        )
        axes.add_line(
            Line2D(
                [_SAMPLE[0], sum(_SAMPLE) / 2, _SAMPLE[1]],
                [height] * 3,
                linestyle=line.get_linestyle(),
                marker=line.get_marker(),
                markersize=line.get_markersize(),
                markevery=[1],
                color=line.get_color(),
                transform=axes.transAxes,
                clip_on=False,
            )
        )
        axes.annotate(
            str(line.get_label()),
            xy=(_SAMPLE[1] + 0.02, height),
            xycoords="axes fraction",
            verticalalignment="center_baseline",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], *, gap: float) -> NDArray[np.float64]:
    """Return places in [0, 1] that are at least `gap` apart, near the wanted ones.

    The sum of the squared distances is the least possible (isotonic regression). Too
    many for the gap are evenly spaced.
    """
    count = len(wanted)
    gap = min(gap, 1 / max(count - 1, 1))
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(count)
    blocks: list[list[float]] = []
    for value in np.asarray(wanted)[order] - steps:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    means: ArrayLike = [np.mean(block) for block in blocks for _ in block]
    places = np.empty(count)
    places[order] = np.clip(means, 0, 1 - gap * max(count - 1, 0)) + steps
    return places
