"""A budget: what one client may use of the network and of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import floor
from typing import Any

from flasc_flwr.core.ranges import integer
from flasc_flwr.core.settings import check, setting
from flasc_flwr.core.sparsity import DENSITY

RANK = integer(1)
"""What a rank may be."""

DENSITIES = ("download-density", "upload-density")
"""Keys of the densities."""

_STEPS = 4096
"""A device's own density is rounded down to a multiple of 1 / 4096."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a client may use.

    Attributes
    ----------
    download_density, upload_density : float
        Fractions of its adapter that it receives and sends, in (0, 1].
    rank : int, optional
        Number of components of its adapter; None: as many as the server's.
    set_by_device : frozenset[str]
        Keys of the densities that the device has set itself.
    prescribed : frozenset[str]
        Those of them that the method exceeds: the device may refuse that.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download_density: float = setting(
        1 / 4,
        DENSITY,
        "fraction of the adapter's entries that a client receives",
        used_by="methods with a sparse download",
    )
    upload_density: float = setting(
        1 / 4,
        DENSITY,
        "fraction of the update's entries that a client sends",
        used_by="methods with a sparse upload",
    )
    rank: int | None = setting(
        None, RANK, "components of a client's adapter", key="lora-rank"
    )
    set_by_device: frozenset[str] = field(default=frozenset(), compare=False)
    prescribed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def limited_by(self, own: Mapping[str, Any]) -> Budget:
        """Return this budget with a device's own settings applied.

        Parameters
        ----------
        own : Mapping[str, Any]
            The device's ``--node-config``: ``download-density`` and
            ``upload-density`` replace this budget's, rounded down to a multiple of
            1 / 4096 and at least that; ``lora-rank`` is the highest rank that the
            device can train.
        """
        budget = Budget(
            download_density=_own("download-density", own, self.download_density),
            upload_density=_own("upload-density", own, self.upload_density),
            rank=self.rank,
            set_by_device=frozenset(own) & frozenset(DENSITIES),
        )
        if "lora-rank" not in own:
            return budget
        return budget.at_most(RANK.require("lora-rank", own["lora-rank"]))

    def at_most(self, rank: int | None) -> Budget:
        """Return this budget with at most `rank` components; None is no limit."""
        ranks = [r for r in (self.rank, rank) if r is not None]
        return replace(self, rank=min(ranks, default=None))


def _own(key: str, own: Mapping[str, Any], of_run: float) -> float:
    """Return a device's density on the grid; the run's where it sets no other.

    Clients with one density share a download. Without the grid each could have one
    that differs in the last digit.
    """
    if key not in own:
        return of_run
    density: float = DENSITY.require(key, own[key])
    return density if density == of_run else max(1, floor(density * _STEPS)) / _STEPS
