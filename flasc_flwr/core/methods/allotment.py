"""The budgets of a run: which client may use what, in which turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.schedules import Decay, decaying
from flasc_flwr.core.methods.tiers import TIERS, tier_of


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What the clients of a run may use.

    Attributes
    ----------
    method : Method
        Names the tiers and says how densities change.
    most : Budget
        Budget of a client in the highest tier that sets nothing itself.
    decay : Decay
        How fast densities decay.
    low_rank : int, optional
        Rank of clients that the server has not assigned one; None where the server
        assigns no ranks.

    Raises
    ------
    ValueError
        If the run limits bytes that the method cannot limit, or changes a download
        density that references depend on.
    """

    method: Method
    most: Budget
    decay: Decay
    low_rank: int | None = None

    def __post_init__(self) -> None:
        """Check that the method can keep to the run's bytes."""
        method, most = self.method, self.most
        if most.upload_bytes and method.uploads == "support":
            raise ValueError(
                f"upload-bytes must be 0 with method {method.name!r}, where all "
                "clients send the entries of their download (download-bytes limits "
                f"both), got {most.upload_bytes}"
            )
        if most.download_bytes and method.merges:
            raise ValueError(
                f"download-bytes must be 0 with method {method.name!r}, which sends "
                "merged products of any size beside the adapter, got "
                f"{most.download_bytes}"
            )
        self._require_no_bytes(most)
        steady = self.download_decay == 1 and method.schedule is decaying
        if method.error_feedback == "both" and not (
            steady and method.dense_rounds == 0
        ):
            raise ValueError(
                "with error-feedback 'both', the download density must stay the same, "
                "because devices with one density share a reference: "
                "download-density-decay must be 1 and dense-rounds 0 (the first "
                "download is dense as it is), got "
                f"{self.download_decay} and {method.dense_rounds}"
            )

    @property
    def download_decay(self) -> float:
        """Factor on download densities each time: as given, or the method's own."""
        given = self.decay.download
        return self.method.usual_decay if given is None else given

    def of(self, name: str, settings: Mapping[str, Any]) -> Budget:
        """Return a client's own budget, from its name and its ``--node-config``.

        Raises
        ------
        ValueError
            If a setting is out of range, or limits bytes that the method cannot limit.
        """
        tiers = TIERS[self.method.tiers]
        tier = tiers[tier_of(name, settings, len(tiers))]
        own = tier.of(self.most).limited_by(settings)
        self._require_no_bytes(own)
        return own

    def _require_no_bytes(self, budget: Budget) -> None:
        """Check that no bytes are limited where bases travel whole.

        Raises
        ------
        ValueError
            If some are.
        """
        limits = {
            "download-bytes": budget.download_bytes,
            "upload-bytes": budget.upload_bytes,
        }
        for key, most in limits.items():
            if most and self.method.measures_bases:
                raise ValueError(
                    f"{key} must be 0 with core-basis 'gradient', whose bases travel "
                    f"whole, got {most}"
                )

    def at(self, turn: int, own: Budget, rank: int | None = None) -> Budget:
        """Return what a client uses in a turn.

        Parameters
        ----------
        turn : int
            1 before the first step of the server optimizer, 2 after it, and so on: a
            round without replies does not count.
        own : Budget
            The client's own budget.
        rank : int, optional
            The rank that the server has given it; None where it gives none.
        """
        method, times = self.method, self.decay.times(turn)
        download = method.download_density or method.schedule(
            own.download_density, self.download_decay, times
        )
        upload = method.upload_density or method.schedule(
            own.upload_density, self.decay.upload, times
        )
        given = replace(
            own.at_most(rank),
            download_density=1.0 if turn <= method.dense_rounds else download,
            upload_density=upload,
        )
        return replace(given, prescribed=self._beyond(own, given))

    def _beyond(self, own: Budget, given: Budget) -> frozenset[str]:
        """Return which densities that a device has set itself the method exceeds."""
        down, up = given.download_density, given.upload_density
        if self.method.scoring.whole_head:
            down = 1.0  # the density is only that of the other tensors
        if self.method.uploads == "support":
            up = down
        if self.method.scoring.roles:
            highest = self.method.scoring.roles.highest
            down, up = max(down, highest), max(up, highest)
        beyond = {
            "download-density": down > own.download_density,
            "upload-density": up > own.upload_density,
        }
        return frozenset(key for key in own.set_by_device if beyond[key])

    def standard(self, turn: int) -> dict[str, Budget]:
        """Return what clients that set nothing themselves use in a turn.

        The keys are prefixes for metrics. The first key is empty and has the most.
        """
        tiers = TIERS[self.method.tiers]
        own = {f"tier_{i}_": tier.of(self.most) for i, tier in enumerate(tiers)}
        if self.low_rank is not None:
            own["low_rank_"] = self.most.at_most(self.low_rank)
        best = {"": own.pop(f"tier_{len(tiers) - 1}_")}
        return {name: self.at(turn, b) for name, b in (best | own).items()}
