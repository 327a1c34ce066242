"""Density schedules: how a density changes with the rounds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from flasc_flwr.core.ranges import integer, number
from flasc_flwr.core.settings import check, setting

Schedule = Callable[[float, float, int], float]
"""Takes a density, the decay and how often it was applied; returns the density now."""


_FACTOR = number("(0, 1]")


def decaying(density: float, decay: float, times: int) -> float:
    """Begin at `density`: ``density * decay ** times``, as in FLASC's code.

    Never zero, which is no density: the largest entry travels even where the product is
    too small for a float.
    """
    return max(density * decay**times, sys.float_info.min)


def decaying_to(density: float, decay: float, times: int) -> float:
    """Begin at 1 and end at `density`: iterative magnitude pruning."""
    return max(density, decay**times)


@dataclass(frozen=True, kw_only=True)
class Decay:
    """How fast densities decay.

    Attributes
    ----------
    download : float, optional
        Factor on the download density each time, in (0, 1]; 1 is no decay. Default: the
        method's own.
    upload : float
        Likewise, for the upload density.
    every : int
        Rounds from one time to the next, at least 1.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download: float | None = setting(
        None,
        _FACTOR,
        "factor on the download density each time; auto is 1, and 0.95 with "
        "adapter-lth, which starts at density 1 and ends at download-density",
        key="download-density-decay",
        off="auto",
        used_by="methods with a sparse download",
    )
    upload: float = setting(
        1.0,
        _FACTOR,
        "factor on the upload density each time",
        key="upload-density-decay",
        used_by="methods with a sparse upload",
    )
    every: int = setting(
        1,
        integer(1),
        "how often the densities decay",
        key="density-decay-every",
        unit="rounds",
        used_by="methods with a sparse download or upload",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def times(self, turn: int) -> int:
        """Return how often the decay was applied by a turn, counted from 1."""
        return (turn - 1) // self.every
