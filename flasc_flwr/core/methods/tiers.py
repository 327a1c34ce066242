"""Tiers: classes of devices with unequal budgets (FLASC, systems heterogeneity)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from flasc_flwr.core.methods.budget import Budget


@dataclass(frozen=True)
class Tier:
    """What a class of devices uses instead of the run's settings.

    Attributes
    ----------
    rank : int, optional
        Its rank.
    density : float, optional
        Its download and upload density.
    """

    rank: int | None = None
    density: float | None = None

    def of(self, budget: Budget) -> Budget:
        """Return the run's budget with this tier's settings applied."""
        if self.density is not None:
            budget = replace(
                budget, download_density=self.density, upload_density=self.density
            )
        return budget.at_most(self.rank)


TIERS = {
    "none": (Tier(),),
    "density": (Tier(density=1 / 16), Tier(density=1 / 4), Tier(density=1.0)),
    "rank": (Tier(rank=1), Tier(rank=4), Tier()),
}
"""Tiers by name, the weakest first. The last tier of ``rank`` has the server's rank,
which is 16 in FLASC's code."""


def tier_of(name: str, own: Mapping[str, Any], count: int) -> int:
    """Return a client's tier, 0 to `count` - 1.

    Its ``--node-config`` may set ``tier``. Otherwise it is the client's number modulo
    `count`, as in FLASC's code; a name that is not a number is hashed first.

    Raises
    ------
    ValueError
        If the device sets a tier that does not exist.
    """
    if "tier" in own and count > 1:
        tier = own["tier"]
        if type(tier) is not int or not 0 <= tier < count:
            raise ValueError(f"tier must be an integer, 0 to {count - 1}, got {tier!r}")
        return tier
    number = int(name) if name.isdecimal() else crc32(name.encode())
    return number % count
