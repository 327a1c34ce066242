"""The budgets of a run: which client may use what, and at which turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.tiers import TIERS, tier_of


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What the clients of a run may use.

    Attributes
    ----------
    method : Method
        Its tiers, and how it sets densities.
    most : Budget
        What a client uses that sets nothing of its own, in the highest tier.
    decay : Decay
        How fast densities decay.
    low_rank : int, optional
        Rank of those to whom the server has assigned none yet; None where it assigns
        no ranks.
    """

    method: Method
    most: Budget
    decay: Decay
    low_rank: int | None = None

    def of(self, name: str, own: Mapping[str, Any]) -> Budget:
        """Return a client's budget, from its name and its own settings."""
        tiers = TIERS[self.method.tiers]
        tier = tiers[tier_of(name, own, len(tiers))]
        return tier.of(self.most).limited_by(own)

    def at(self, turn: int, budget: Budget) -> Budget:
        """Return what a client with such a budget uses at a turn, counted from 1."""
        return self.method.budget(budget, self.decay, turn)

    def standard(self, turn: int) -> dict[str, Budget]:
        """Return what clients use at a turn who set nothing of their own.

        By the prefix of their metrics; the one without a prefix has the most, and is
        the first.
        """
        tiers = TIERS[self.method.tiers]
        own = {f"tier_{i}_": tier.of(self.most) for i, tier in enumerate(tiers)}
        if self.low_rank is not None:
            own["low_rank_"] = self.most.at_most(self.low_rank)
        best = {"": own.pop(f"tier_{len(tiers) - 1}_")}
        return {name: self.at(turn, b) for name, b in (best | own).items()}
