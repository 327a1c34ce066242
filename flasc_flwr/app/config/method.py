"""Settings of the method that federates an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flasc_flwr.app.config.adapter import OF_LORA
from flasc_flwr.core.aggregation import AGGREGATIONS, WEIGHTINGS, Tuning
from flasc_flwr.core.aggregation.tuning import RIDGE, RIDGE_HELP
from flasc_flwr.core.codec import VALUE_FORMATS, of_formats
from flasc_flwr.core.cores import CORE_BASES
from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.initial import INITS
from flasc_flwr.core.methods.budget import AUTO, Budget
from flasc_flwr.core.methods.method import ERROR_FEEDBACK, RANK_ASSIGNMENTS, Method
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.role_densities import NONE, RoleDensities
from flasc_flwr.core.methods.scores import QUOTAS, SCORES
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.methods.tiers import TIERS
from flasc_flwr.core.optimizers import (
    LEARNING_RATE,
    SERVER_OPTIMIZERS,
    AdamW,
    Decaying,
    FedAvgM,
    ServerOptimizer,
    Sgd,
)
from flasc_flwr.core.ranges import automatic, choice, integer, switch
from flasc_flwr.core.ranks import RANK_SCALES
from flasc_flwr.core.segments import SEGMENTS
from flasc_flwr.core.settings import same_setting, setting
from flasc_flwr.core.sparsity import DENSITY

_SPARSE = "methods with a sparse download"
_UNEQUAL = "methods with unequal ranks"


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The method and what replaces parts of it; ``auto`` is the method's own part.

    `roles` are densities of roles, which have their own keys.
    """

    roles: RoleDensities = NONE
    method: str = setting(
        "flasc", choice(*METHODS), "federated method (docs/methods.md compares them)"
    )
    download_density: float | str = setting(
        AUTO,
        automatic(DENSITY),
        "largest fraction of the adapter's entries that a client receives; auto is "
        f"{Budget.download_density:g}, or 1 with download-bytes and for cores",
        used_by="methods with a sparse download",
    )
    upload_density: float | str = setting(
        AUTO,
        automatic(DENSITY),
        "largest fraction of the update's entries that a client sends; auto is "
        f"{Budget.upload_density:g}, or 1 with upload-bytes and for cores",
        used_by="methods with a sparse upload",
    )
    download_bytes: int = same_setting(Budget, "download_bytes")
    upload_bytes: int = same_setting(Budget, "upload_bytes")
    value_format: str = setting(
        "auto", choice("auto", *VALUE_FORMATS), "how values are encoded in messages"
    )
    head_format: str = setting(
        "auto",
        choice("auto", *VALUE_FORMATS),
        "how values of the head (the saved modules) are encoded; auto is value-format",
    )
    dense_rounds: int | str = setting(
        "auto",
        automatic(integer(0)),
        "rounds at the start that download every entry",
        unit="rounds",
        used_by=_SPARSE,
    )
    score: str = setting(
        "auto",
        choice("auto", *SCORES),
        "what entries are ranked by: |w|, |w| sqrt(fan-in), or what they add to B A",
        used_by=_SPARSE,
    )
    quota: str = setting(
        "auto",
        choice("auto", *QUOTAS),
        "rank entries over the whole adapter, or within each tensor",
        used_by=_SPARSE,
    )
    core_heads: int | str = setting(
        "auto",
        automatic(integer(1)),
        "heads of a core, of lora-rank / core-heads components each; auto is 1 for "
        "`fed-sb` and 4 for `ravan`",
        used_by="`fed-sb` and `ravan`",
    )
    core_basis: str = setting(
        "auto",
        choice("auto", *CORE_BASES),
        "fixed bases of a core: drawn from the seed, singular vectors of the frozen "
        "weights, or of the first cohort's gradients, which take a round and are sent "
        "to each device once",
        used_by="`fed-sb` and `ravan`",
    )
    init: str = setting(
        "auto",
        choice("auto", *INITS),
        "how clients get the initial A: downloaded, or rebuilt from the seed",
        used_by=OF_LORA,
    )
    tiers: str = setting(
        "auto",
        choice("auto", *TIERS),
        "simulate unequal devices, by density or by rank",
        used_by=OF_LORA,
    )
    rank_assignment: str = setting(
        "auto",
        choice("auto", *RANK_ASSIGNMENTS),
        "ranks are each device's own, or assigned by validation loss",
        used_by=OF_LORA,
    )
    low_rank: int = same_setting(ValidationRanks, "low_rank")
    high_rank_fraction: float = same_setting(ValidationRanks, "fraction")
    rank_scale: str = setting(
        "auto",
        choice("auto", *RANK_SCALES),
        "scale of B A: lora-alpha / lora-rank for all, or by each client's own rank",
        used_by=_UNEQUAL,
    )
    upload_segments: int | str = setting(
        "auto",
        automatic(SEGMENTS),
        "parts of the adapter, of which a client sends one each round, in turn; "
        "upload-density is a fraction of that part",
        used_by="all methods but `flasc-shared-mask`",
    )
    aggregation: str = setting(
        "auto",
        choice("auto", *AGGREGATIONS),
        "how updates are combined (docs/methods.md compares them)",
    )
    aggregation_energy: float = same_setting(Tuning, "energy")
    aggregation_ridge: float | str = setting(
        "auto",
        automatic(RIDGE),
        RIDGE_HELP,
        used_by='aggregation = "fair" and "alternating"',
    )
    error_feedback: str = setting(
        "auto",
        choice("auto", *ERROR_FEEDBACK),
        "what messages leave out and is sent later: nothing, clients' updates, or the "
        "server's weights too (docs/error-feedback.md)",
    )
    feedback_decay: float = same_setting(Fading, "decay")
    exact_residual: bool | str = setting(
        "auto",
        automatic(switch()),
        "merge into the backbone what averaging the factors misses",
        used_by=OF_LORA,
    )
    weighting: str = setting(
        "uniform", choice(*WEIGHTINGS), "weights of the clients in the mean"
    )
    server_optimizer: str = setting(
        "auto", choice("auto", *SERVER_OPTIMIZERS), "optimizer of the server's step"
    )
    server_learning_rate: float | str = setting(
        "auto",
        automatic(LEARNING_RATE),
        f"learning rate of that step; auto is {Sgd.learning_rate:g} for sgd and "
        f"fedavgm, {AdamW.learning_rate:g} for the others",
    )
    server_learning_rate_decay: float = same_setting(Decaying, "decay")
    server_momentum: float = same_setting(FedAvgM, "momentum")

    def budget(self) -> Budget:
        """Return what a client may use that sets nothing itself."""
        return Budget.of(
            download_density=self.download_density,
            upload_density=self.upload_density,
            download_bytes=self.download_bytes,
            upload_bytes=self.upload_bytes,
            usual=METHODS[self.method].usual_density,
        )

    def compose(self) -> Method:
        """Return the method, with the parts that the run config puts into it.

        Raises
        ------
        ValueError
            If they do not fit together.
        """
        return compose(
            self.method,
            score=self.score,
            quota=self.quota,
            roles=self.roles,
            tuning=self._tuning(),
            core_heads=self.core_heads,
            core_basis=self.core_basis,
            init=self.init,
            dense_rounds=self.dense_rounds,
            tiers=self.tiers,
            rank_assignment=self.rank_assignment,
            rank_scale=self.rank_scale,
            upload_segments=self.upload_segments,
            aggregation=self.aggregation,
            error_feedback=self.error_feedback,
            exact_residual=self.exact_residual,
            server_optimizer=self.server_optimizer,
        )

    @property
    def values(self) -> str:
        """Return the value format of payloads, also the head's if that is another."""
        own = self.compose().value_format
        values = own if self.value_format == "auto" else self.value_format
        return of_formats(values, self.head_format)

    def _tuning(self) -> Tuning:
        energy, ridge = self.aggregation_energy, self.aggregation_ridge
        if isinstance(ridge, str):
            return Tuning(energy=energy)
        return Tuning(energy=energy, ridge=ridge)

    def make_server_optimizer(self) -> ServerOptimizer:
        """Return the server optimizer; ``auto`` is its own default learning rate."""
        name = self.compose().server_optimizer
        make = SERVER_OPTIMIZERS[name]
        if name == "fedavgm":
            make = partial(make, momentum=self.server_momentum)
        rate = self.server_learning_rate
        optimizer = make() if isinstance(rate, str) else make(learning_rate=rate)
        decay = self.server_learning_rate_decay
        return optimizer if decay == 1 else Decaying(optimizer=optimizer, decay=decay)
