"""What a method is: a composition of small parts, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from flasc_flwr.core.aggregation import AGGREGATIONS
from flasc_flwr.core.initial import INITS
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.schedules import Schedule, decaying
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.methods.selection import DownloadRule, largest
from flasc_flwr.core.methods.tiers import TIERS
from flasc_flwr.core.methods.trainable import ALL, Trainable
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.core.ranges import choice, integer
from flasc_flwr.core.ranks import RANK_SCALES

RANK_ASSIGNMENTS = ("own", "validation")
"""Who decides on ranks: each device (``lora-rank`` in its ``--node-config``) or its
tier, or the server by validation loss after the first turn (Byun & Lee)."""


UPLOADS = ("largest", "support")
"""Which entries of an update travel: its largest, each client's own, or those on the
download's support, the same ones of every client that got the same download."""


class Tunes(StrEnum):
    """Which parameters of the model are federated."""

    LORA = "lora"
    HEAD = "head"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What travels, what is trained and what the server makes of it, as data.

    Attributes
    ----------
    name : str
        The name in the run config.
    source : str
        Where the method is from.
    tunes : Tunes
        Which parameters of the model are federated.
    init : str
        Where clients have the initial A from, one of `INITS`.
    download : DownloadRule
        Which entries of the server vector travel.
    scoring : Scoring
        How the rule ranks them.
    download_density, upload_density : float, optional
        Density that the method prescribes, in place of the run's and the node's.
    schedule : Schedule
        How densities change with the rounds.
    dense_rounds : int
        How many turns at the start download everything.
    uploads : str
        Which entries of the update travel, one of `UPLOADS`.
    trainable : tuple[Trainable, ...]
        What a client may change, turn by turn, over and over.
    tiers : str
        Classes of devices, one of `TIERS`.
    rank_assignment : str
        Who decides on ranks, one of `RANK_ASSIGNMENTS`.
    rank_scale : str
        How clients of a lower rank scale B A, one of `RANK_SCALES`.
    aggregation : str
        What the server makes of the updates, one of `AGGREGATIONS`.
    exact_residual : bool
        Merge into the backbone what averaging factors misses of their products.
    server_optimizer : str
        What ``server-optimizer = "auto"`` stands for.
    value_format : str
        What ``value-format = "auto"`` stands for.

    Raises
    ------
    ValueError
        If a part has no such name, or two of them do not fit together.
    """

    name: str
    source: str
    tunes: Tunes = Tunes.LORA
    init: str = "sent"
    download: DownloadRule = largest
    scoring: Scoring = Scoring()
    download_density: float | None = None
    upload_density: float | None = None
    schedule: Schedule = decaying
    dense_rounds: int = 0
    uploads: str = "largest"
    trainable: tuple[Trainable, ...] = (ALL,)
    tiers: str = "none"
    rank_assignment: str = "own"
    rank_scale: str = "common"
    aggregation: str = "zero-padded-updates"
    exact_residual: bool = False
    server_optimizer: str = "adamw"
    value_format: str = "bfloat16"

    def __post_init__(self) -> None:
        """Check that the parts exist and fit together."""
        choice(*INITS).require("init", self.init)
        integer(0).require("dense-rounds", self.dense_rounds)
        choice(*UPLOADS).require("uploads", self.uploads)
        choice(*TIERS).require("tiers", self.tiers)
        choice(*RANK_ASSIGNMENTS).require("rank-assignment", self.rank_assignment)
        choice(*RANK_SCALES).require("rank-scale", self.rank_scale)
        choice(*AGGREGATIONS).require("aggregation", self.aggregation)
        choice(*SERVER_OPTIMIZERS).require("server-optimizer", self.server_optimizer)
        averages = AGGREGATIONS[self.aggregation].averages
        if self.exact_residual and not averages:
            raise ValueError(
                f"exact-residual is True, but aggregation {self.aggregation!r} is "
                "exact by itself: allowed is False"
            )
        if self.sets_factors and self.server_optimizer != "sgd":
            raise ValueError(
                f"server-optimizer is {self.server_optimizer!r}, but "
                f"{self._exactness} sets the factors anew each round, which leaves "
                "an optimizer's moments without a meaning: allowed is 'sgd'"
            )

    @property
    def sets_factors(self) -> bool:
        """Whether the server vector becomes what aggregation says, at once."""
        return self.exact_residual or not AGGREGATIONS[self.aggregation].averages

    @property
    def _exactness(self) -> str:
        if self.exact_residual:
            return "exact-residual"
        return f"aggregation {self.aggregation!r}"

    def trainable_at(self, turn: int, budget: Budget | None = None) -> Trainable:
        """Return what a client with this turn's `budget` may change.

        A whole download has entries that are zero and do not travel: they are not
        frozen.
        """
        trainable = self.trainable[(turn - 1) % len(self.trainable)]
        if budget is not None and budget.download_density == 1:
            return replace(trainable, support_only=False)
        return trainable
