"""The server's side of a method: its vector, how it steps, and what it sends."""

from __future__ import annotations

from functools import partial
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.aggregation import (
    Aggregate,
    Aggregator,
    Contribution,
    aggregator,
)
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.merged import Merged, merge
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.optimizers import ServerOptimizer
from flasc_flwr.core.ranks import Truncation, rank_of, truncation
from flasc_flwr.core.sparsity import Positions, SparseVector
from flasc_flwr.core.stepping import step_chunks, step_parts
from flasc_flwr.flower.clients.replies import Update
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.server.downloads import Downloads
from flasc_flwr.flower.state.checkpoint import plain
from flasc_flwr.flower.state.run_state import ServerState
from flasc_flwr.flower.wire import Order, arrays_of


class Server:
    """Holds the server vector, dense, and makes what can be sent of it.

    Parameters
    ----------
    budgets : Allotment
        What clients may use, by the method: what is sent and trained, and what is
        made of it.
    value_format : str
        Value format of the payloads.
    optimizer : ServerOptimizer
        Steps the server vector.
    seed : int
        Seed of initial factors that clients rebuild.
    validation : ValidationRanks, optional
        How ranks are assigned, where the method does it by validation.
    """

    def __init__(
        self,
        *,
        budgets: Allotment,
        value_format: str,
        optimizer: ServerOptimizer,
        seed: int,
        validation: ValidationRanks | None,
    ) -> None:
        self.method = budgets.method
        self.budgets = budgets
        self.value_format = value_format
        self.optimizer = optimizer
        self.validation = validation
        self.init_seed = seed if self.method.init == "shared-seed" else None
        self.downloads: Downloads
        self._state: ServerState | None = None
        self._adopted: ArrayRecord | None = None
        self._losses: dict[str, float] = {}

    @property
    def state(self) -> ServerState:
        """All that the run knows.

        Raises
        ------
        RuntimeError
            Before there are arrays.
        """
        if self._state is None:
            raise RuntimeError("the server has no state before it has arrays")
        return self._state

    @property
    def turn(self) -> int:
        """1 before the first step, 2 after it, ...: skipped rounds do not count."""
        return 1 + (self._state.optimizer.step if self._state else 0)

    @property
    def assigns_ranks(self) -> bool:
        """Whether this turn's losses decide on ranks."""
        return self.validation is not None and self.turn == 1

    def budget_now(self, own: Budget, name: str | None = None) -> Budget:
        """Return what a client with the budget `own` uses at this turn.

        With its name, at the rank that it has been given.
        """
        budget = self.budgets.at(self.turn, own)
        if name is None:
            return budget
        return budget.at_most(self.state.ranks.get(name, self.budgets.low_rank))

    def cut(self, rank: int | None) -> Truncation:
        """Return the adapter cut to a rank, as the method scales it."""
        return truncation(self.state.layout, rank, self.method.rank_scale)

    def order(self, budget: Budget) -> Order:
        """Return what is asked of a client's training with this turn's `budget`."""
        shared = self.method.uploads == "support"
        return Order(
            density=budget.download_density if shared else budget.upload_density,
            value_format=self.value_format,
            trains=self.method.trains_at(self.turn, budget),
            init_seed=self.init_seed,
            on_support=shared,
        )

    def shared_support(self, budget: Budget) -> Positions | None:
        """Return where a client's update lies, if it does not say so itself.

        In the vector of the client's rank.
        """
        if self.method.uploads != "support":
            return None
        download = self.downloads.at(budget)
        if budget.download_density == 1:
            return np.arange(download.cut.layout.size)
        return download.support

    def question(self, budget: Budget) -> Order:
        """Return what is asked of a client that only evaluates."""
        return Order(init_seed=self.init_seed)

    def adopt(self, arrays: ArrayRecord) -> None:
        """Take over a caller's arrays, unless they are what it had or got last."""
        if self._state and (arrays is self.downloads.arrays or arrays is self._adopted):
            return
        self._adopted = arrays
        plain = arrays_of(arrays)
        layout = Layout.of(plain)
        vector = layout.flatten(plain)
        if self._state is None or self._state.layout != layout:
            vector = self._initial(layout, vector)
            self._state = ServerState(layout, vector, self.optimizer.init(layout.size))
        self._state.vector = vector
        self._prepare()

    def restore(self, state: ServerState) -> None:
        """Go on from a state."""
        self._state = state
        self._prepare()

    def settings(self) -> dict[str, Any]:
        """Return what a run has to have in common with one that it goes on from."""
        return {
            **{f"method {key}": part for key, part in plain(self.method).items()},
            "budget": plain(self.budgets.most),
            "decay": plain(self.budgets.decay),
            "values": self.value_format,
            "server_optimizer": plain(self.optimizer),
            "init_seed": self.init_seed,
            "low_rank": self.budgets.low_rank,
        }

    def aggregator(self) -> Aggregator:
        """Return what aggregates this turn's updates."""
        make = aggregator(self.method.aggregation, self.method.exact_residual)
        return make(self.state.layout, self.state.vector)

    def step(self, aggregate: Aggregate) -> ArrayRecord:
        """Step along the cohort's aggregate, and return the new dense arrays."""
        state = self.state
        parts = self.method.trains_at(self.turn).parts(state.layout)
        step = (
            partial(step_parts, self.optimizer, parts)
            if parts
            else partial(step_chunks, self.optimizer)
        )
        state.vector, state.optimizer = step(
            state.vector, aggregate.update, state.optimizer
        )
        self._assign_ranks()
        state.merged = merge(state.merged, aggregate.terms)
        self._prepare()
        return self.downloads.arrays

    def note_rank(self, update: Update, contribution: Contribution) -> None:
        """Note what an update says of its client's rank."""
        state = self.state
        if self.validation and self.assigns_ranks:
            trained = contribution.trained(state.layout, state.vector)
            arrays = state.layout.unflatten(trained)
            self._losses[update.client] = self.validation.loss_of(arrays)
        if update.pruned:
            state.ranks[update.client] = update.rank

    def _assign_ranks(self) -> None:
        if self.validation and self._losses:
            best = self.validation.best(self._losses)
            self.state.ranks |= dict.fromkeys(best, rank_of(self.state.layout))
            log(INFO, "The whole rank is given to %s", ", ".join(best))
            self._losses = {}

    def received(self) -> ArrayRecord:
        """Return the adapter as clients receive it now: masked and rounded."""
        return self.downloads.received(self.budget_now(self.budgets.most))

    def merged(self) -> Merged:
        """Return what clients merge into the backbone now: rounded."""
        return self.downloads.merged[1] if self.downloads.merged else {}

    def describe(self) -> list[str]:
        """Return the settings as the first lines of a tree."""
        method = self.method
        now = self.budget_now(self.budgets.most)
        return [
            f"├──> Method: {method.name} ({method.source})",
            f"│\t├── Density in round 1: download ({now.download_density:.4g}) | "
            f"upload ({now.upload_density:.4g})",
            f"│\t├── Scoring: {method.scoring.score}, quota {method.scoring.quota} | "
            f"Initial A: {method.init}",
            f"│\t├── Tiers: {method.tiers} | Ranks: {method.rank_assignment}, "
            f"{method.rank_scale} scale",
            f"│\t├── Value format: {self.value_format}",
            f"│\t├── Aggregation: {method.aggregation}"
            + (", with exact residual" if method.exact_residual else ""),
            f"│\t├── Server optimizer: {self.optimizer}",
        ]

    def _initial(self, layout: Layout, vector: Vector) -> Vector:
        """Return the first server vector, A rebuilt from the seed where that is so."""
        if self.init_seed is None:
            return vector
        vector = vector.copy()
        for tensor, place in layout.slices():
            if tensor.role == Role.A:
                vector[place] = seeded_factors(layout, self.init_seed)[place]
        return vector

    def _prepare(self) -> None:
        state, method = self.state, self.method

        def select(layout: Layout, vector: Vector, density: float) -> SparseVector:
            return method.download(
                layout, vector, density, method.scoring, state.supports
            )

        self.downloads = Downloads(
            state.layout,
            state.vector,
            state.merged,
            cut=self.cut,
            select=select,
            value_format=self.value_format,
            init_seed=self.init_seed,
        )
