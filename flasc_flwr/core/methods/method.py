"""What a method is: a composition of small parts, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from flasc_flwr.core.aggregation import AGGREGATIONS, Tuning
from flasc_flwr.core.cores import CORE_BASES
from flasc_flwr.core.fitting import Select
from flasc_flwr.core.initial import INITS
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.schedules import Schedule, decaying
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.methods.selection import (
    DownloadRule,
    Supports,
    largest,
    up_to,
)
from flasc_flwr.core.methods.tiers import TIERS
from flasc_flwr.core.methods.trainable import ALL, Trainable
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.core.ranges import choice, integer
from flasc_flwr.core.ranks import RANK_SCALES
from flasc_flwr.core.segments import SEGMENTS

RANK_ASSIGNMENTS = ("own", "validation")
"""Who decides the ranks: ``own``, the device (``lora-rank`` in its ``--node-config``)
or its tier; ``validation``, the server by validation loss after the first turn (Byun &
Lee)."""

UPLOADS = ("largest", "support")
"""Which entries of an update travel: ``largest``, each client's own largest;
``support``, those on the download's support, equal for all clients with the same
download."""


ERROR_FEEDBACK = ("none", "up", "both")
"""What is remembered of what messages leave out, and sent later: nothing; what a client
has trained and not sent; also what the server has not sent of its vector."""


class Tunes(StrEnum):
    """Which parameters of the model are federated."""

    LORA = "lora"
    CORES = "cores"
    HEAD = "head"
    FULL = "full"

    @property
    def adapts(self) -> bool:
        """Whether modules of a frozen backbone are adapted, through PEFT's LoRA."""
        return self in (Tunes.LORA, Tunes.CORES)


@dataclass(frozen=True, kw_only=True)
class Method:
    """What travels, what is trained and how the server aggregates it, as data.

    Attributes
    ----------
    name : str
        The name in the run config.
    source : str
        The paper or code that the method is from.
    tunes : Tunes
        Which parameters of the model are federated.
    core_heads : int
        With cores: heads of each module, between which its rank is divided. With
        several, each has a scale that is trained, too.
    core_basis : str
        With cores: where the fixed bases come from, one of `CORE_BASES`.
    init : str
        Where clients get the initial A from, one of `INITS`.
    download : DownloadRule
        Which entries of the server vector travel.
    scoring : Scoring
        How the rule orders the entries.
    download_density, upload_density : float, optional
        Density that the method prescribes; it replaces the run's and the node's.
    usual_density : float
        Density of a run that gives none, where the method prescribes none.
    schedule : Schedule
        How densities change with the rounds.
    usual_decay : float
        Meaning of ``download-density-decay = "auto"``.
    dense_rounds : int
        Number of turns at the start that download everything.
    uploads : str
        Which entries of the update travel, one of `UPLOADS`.
    upload_segments : int
        Parts of an update, of which a client sends one in each turn.
    trainable : tuple[Trainable, ...]
        What a client may change in each turn, repeated cyclically.
    tiers : str
        Classes of devices, one of `TIERS`.
    rank_assignment : str
        Who decides the ranks, one of `RANK_ASSIGNMENTS`.
    rank_scale : str
        How clients of a lower rank scale B A, one of `RANK_SCALES`.
    aggregation : str
        How the server aggregates the updates, one of `AGGREGATIONS`.
    tuning : Tuning
        Numbers that some of them need.
    error_feedback : str
        What is remembered of what messages leave out, one of `ERROR_FEEDBACK`.
    exact_residual : bool
        Merge the error of averaging factors, against averaging their products, into
        the backbone (FedEx-LoRA).
    server_optimizer : str
        Meaning of ``server-optimizer = "auto"``.
    value_format : str
        Meaning of ``value-format = "auto"``.

    Raises
    ------
    ValueError
        If a part does not exist, or two parts do not fit together.
    """

    name: str
    source: str
    tunes: Tunes = Tunes.LORA
    core_heads: int = 1
    core_basis: str = "seed"
    init: str = "sent"
    download: DownloadRule = largest
    scoring: Scoring = Scoring()
    download_density: float | None = None
    upload_density: float | None = None
    usual_density: float = Budget.download_density
    schedule: Schedule = decaying
    usual_decay: float = 1.0
    dense_rounds: int = 0
    uploads: str = "largest"
    upload_segments: int = 1
    trainable: tuple[Trainable, ...] = (ALL,)
    tiers: str = "none"
    rank_assignment: str = "own"
    rank_scale: str = "common"
    aggregation: str = "zero-padded-updates"
    tuning: Tuning = Tuning()
    error_feedback: str = "none"
    exact_residual: bool = False
    server_optimizer: str = "adamw"
    value_format: str = "bfloat16"

    def __post_init__(self) -> None:
        """Check that the parts exist and fit together."""
        choice(*INITS).require("init", self.init)
        integer(0).require("dense-rounds", self.dense_rounds)
        choice(*UPLOADS).require("uploads", self.uploads)
        SEGMENTS.require("upload-segments", self.upload_segments)
        if self.upload_segments > 1 and self.uploads != "largest":
            raise ValueError(
                f"upload-segments must be 1 with method {self.name!r}, where all "
                f"clients send the same entries, got {self.upload_segments}"
            )
        if self.scoring.roles and (
            self.upload_segments > 1 or self.uploads != "largest"
        ):
            raise ValueError(
                "densities of roles (a-density, b-density, head-density, "
                "other-density) must be 'auto' where uploads are segments, or all "
                f"clients send the same entries (method {self.name!r})"
            )
        a_moves = any(Role.A in trainable.roles for trainable in self.trainable)
        if (a_density := self.scoring.roles.a) and not a_moves and self.init != "sent":
            raise ValueError(
                f"a-density must be 'auto' with method {self.name!r}, whose A never "
                f"travels, got {a_density:g}"
            )
        choice(*TIERS).require("tiers", self.tiers)
        choice(*RANK_ASSIGNMENTS).require("rank-assignment", self.rank_assignment)
        choice(*RANK_SCALES).require("rank-scale", self.rank_scale)
        choice(*AGGREGATIONS).require("aggregation", self.aggregation)
        choice(*SERVER_OPTIMIZERS).require("server-optimizer", self.server_optimizer)
        choice(*ERROR_FEEDBACK).require("error-feedback", self.error_feedback)
        averages = AGGREGATIONS[self.aggregation].averages
        if self.exact_residual and not averages:
            raise ValueError(
                f"exact-residual must be False with aggregation {self.aggregation!r}, "
                "which is exact, got True"
            )
        if self.replaces_factors and self.server_optimizer != "sgd":
            raise ValueError(
                f"server-optimizer must be 'sgd' with {self._exactness}, which "
                "replaces the factors every round, so optimizer moments are "
                f"meaningless, got {self.server_optimizer!r}"
            )

        self._require_factors_step()
        integer(1).require("core-heads", self.core_heads)
        choice(*CORE_BASES).require("core-basis", self.core_basis)
        if self.tunes == Tunes.CORES:
            self._require_cores_fit()
        elif self.core_basis == "gradient":
            raise ValueError(
                f"core-basis must be 'seed' or 'weights' with method {self.name!r}, "
                "which has no cores, got 'gradient'"
            )
        if self.error_feedback != "none":
            self._require_memory_fits()

    def _require_factors_step(self) -> None:
        """Check that the step does not drop a factor that aggregation replaces."""
        rule = AGGREGATIONS[self.aggregation]
        replaced = {Role.B} if rule.merges else {Role.A, Role.B}
        whole = all(replaced <= trainable.roles for trainable in self.trainable)
        if not (rule.averages or whole):
            raise ValueError(
                f"aggregation must average with method {self.name!r}, which does not "
                "step both factors in every turn, so averages are exact, got "
                f"{self.aggregation!r}"
            )

    def _require_cores_fit(self) -> None:
        """Check that nothing is computed with factors B and A, which do not change."""
        for key, wanted, given in (
            ("exact-residual", False, self.exact_residual),
            ("init", "sent", self.init),
            ("rank-scale", "common", self.rank_scale),
        ):
            if given != wanted:
                raise ValueError(
                    f"{key} must be {wanted!r} with method {self.name!r}, which trains "
                    f"cores between fixed bases, got {given!r}"
                )
        if self.scoring.score == "product":
            raise ValueError(
                f"score must not be 'product' with method {self.name!r}, which has no "
                "products B A"
            )
        if self.replaces_factors or AGGREGATIONS[self.aggregation].weigh:
            raise ValueError(
                f"aggregation must average with method {self.name!r}, whose averages "
                f"are exact, without products B A, got {self.aggregation!r}"
            )
        if self.measures_bases and self.error_feedback != "none":
            raise ValueError(
                "error-feedback must be 'none' with core-basis 'gradient', whose bases "
                f"travel beside what is remembered, got {self.error_feedback!r}"
            )

    def _require_memory_fits(self) -> None:
        """Check that what is left out of a message can be sent later."""
        both = self.error_feedback == "both"
        masks = any(trainable.support_only for trainable in self.trainable)
        wrong = {
            "aggregation must average the updates": self.replaces_factors,
            "aggregation must not be 'senders' of segments, with which what is sent "
            "later counts more": (
                self.aggregation == "senders" and self.upload_segments > 1
            ),
            "uploads must be 'largest'": self.uploads != "largest",
            "the download's support must not limit what is trained": both and masks,
            "the download must be of the largest entries": (
                both and self.download is not largest
            ),
        }
        for problem, there in wrong.items():
            if there:
                raise ValueError(
                    f"with error-feedback {self.error_feedback!r}, {problem}, which "
                    f"does not hold for method {self.name!r}"
                )

    @property
    def replaces_factors(self) -> bool:
        """Whether aggregation replaces the factors instead of averaging them."""
        return self.exact_residual or not AGGREGATIONS[self.aggregation].averages

    @property
    def measures_bases(self) -> bool:
        """Whether the bases of cores are measured by clients, and sent to each once.

        They are dense, whatever the budget.
        """
        return self.tunes == Tunes.CORES and self.core_basis == "gradient"

    @property
    def merges(self) -> bool:
        """Whether products travel beside the adapter, to be merged into the backbone.

        They are dense, whatever the budget.
        """
        return self.exact_residual or AGGREGATIONS[self.aggregation].merges

    @property
    def _exactness(self) -> str:
        if self.exact_residual:
            return "exact-residual"
        return f"aggregation {self.aggregation!r}"

    def selection(
        self,
        layout: Layout,
        vector: Vector,
        most: float,
        supports: Supports,
        weights: Vector | None = None,
    ) -> Select:
        """Return what selects the entries of a download; see :func:`.up_to`.

        `weights`, of shape (n,), is the adapter itself where `vector` is a difference
        (default: `vector`).
        """
        scoring = replace(self.scoring, weights=weights)
        return up_to(most, self.download, layout, vector, scoring, supports)

    def trainable_at(self, turn: int, budget: Budget | None = None) -> Trainable:
        """Return what a client with this turn's `budget` may change.

        At download density 1, entries that are zero do not travel, but are not frozen
        either.
        """
        trainable = self.trainable[(turn - 1) % len(self.trainable)]
        if budget is not None and budget.download_density == 1:
            return replace(trainable, support_only=False)
        return trainable
