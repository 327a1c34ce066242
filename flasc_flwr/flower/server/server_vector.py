"""The server vector: always dense, stepped, and sent as downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord

from flasc_flwr.core.aggregation import Aggregate, Aggregator, Contribution, aggregator
from flasc_flwr.core.codec import require_head, require_sendable
from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Arrays, Layout, Role, Vector
from flasc_flwr.core.measured_bases import Sides
from flasc_flwr.core.merged import Merged
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget, up_to_grid
from flasc_flwr.core.methods.least import require_bytes
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.optimizers import ServerOptimizer
from flasc_flwr.core.printable import printable
from flasc_flwr.core.ranks import Truncation, rank_of, truncation
from flasc_flwr.core.segments import segment_of
from flasc_flwr.flower.bases.served_bases import ServedBases
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.server.assigned_ranks import AssignedRanks
from flasc_flwr.flower.server.checked_step import checked_step
from flasc_flwr.flower.server.downloads import Download, Downloads
from flasc_flwr.flower.server.followed import Following
from flasc_flwr.flower.server.turn_selection import TurnSelection
from flasc_flwr.flower.state.run_state import RunState
from flasc_flwr.flower.wire import arrays_of


class ServerVector:
    """Holds the dense server vector of a run, and makes what can be sent of it.

    Masks act on what is sent, never on this vector.

    Parameters
    ----------
    allotment : Allotment
        The method, and what its clients may use.
    value_format : str
        Value format of the payloads.
    optimizer : ServerOptimizer
        Steps the vector.
    seed : int
        Seed of initial factors that clients rebuild.
    validation : ValidationRanks, optional
        How ranks are assigned, where the method does it by validation loss.
    fading : Fading, optional
        How residuals fade, with error feedback (default: not at all).
    core_sides : Sides, optional
        Sides of the modules that have cores, where clients measure their bases.

    Attributes
    ----------
    bases : ServedBases or None
        The measured bases of cores; None where there are none, or not yet.
    """

    def __init__(
        self,
        *,
        allotment: Allotment,
        value_format: str,
        optimizer: ServerOptimizer,
        seed: int,
        validation: ValidationRanks | None,
        fading: Fading | None = None,
        core_sides: Sides | None = None,
    ) -> None:
        self.method = allotment.method
        self.allotment = allotment
        self.value_format = value_format
        self.optimizer = optimizer
        self._ranks = AssignedRanks(validation, allotment.low_rank)
        self.fading = fading or Fading()
        self.init_seed = seed if self.method.init == "shared-seed" else None
        self.core_sides = core_sides or {}
        self.bases: ServedBases | None = None
        self.downloads: Downloads
        self._state: RunState | None = None

    @property
    def state(self) -> RunState:
        """Everything that changes during the run.

        Raises
        ------
        RuntimeError
            Before the run has arrays.
        """
        if self._state is None:
            raise RuntimeError("the run has no state before it has arrays")
        return self._state

    @property
    def turn(self) -> int:
        """1 before the first step, 2 after it, ...: skipped rounds do not count."""
        return 1 + (self._state.optimizer.step if self._state else 0)

    def own_budget(self, name: str, settings: Mapping[str, Any]) -> Budget:
        """Return a client's own budget, from its name and its ``--node-config``.

        Raises
        ------
        ValueError
            If a setting is out of range, or its bytes are too few for any payload.
        """
        budget = self.allotment.of(name, settings)
        self._require_bytes(budget, stated=up_to_grid)
        return budget

    def admitted(self, client: Participant) -> None:
        """Note what a client remembers that takes part from now on."""
        if self.remembers:
            self.state.fleet.introduced(client.name, client.answer)
        if self.bases:
            self.bases.introduced(client.name, client.answer)

    @property
    def lacks_bases(self) -> bool:
        """Whether clients are to measure the bases of cores before they train."""
        return self.method.measures_bases and not self.state.bases

    def take_bases(self, bases: Arrays) -> None:
        """Use measured bases from now on, rounded as they travel."""
        self.state.bases = bases
        self.bases = ServedBases(bases, self.value_format)

    def core_rank(self, budget: Budget) -> int:
        """Return how many components the cores of a budget have."""
        return rank_of(self.cut(budget.rank).layout)

    @property
    def remembers(self) -> bool:
        """Whether devices and the server remember what messages left out."""
        return self.method.error_feedback != "none"

    @property
    def most(self) -> Budget:
        """Budget, in this turn, of a client in the highest tier that sets nothing."""
        return self.allotment.standard(self.turn)[""]

    @property
    def assigns_ranks(self) -> bool:
        """Whether the validation losses of this turn decide the ranks."""
        return self._ranks.validation is not None and self.turn == 1

    def begin(
        self, arrays: ArrayRecord, roles: Mapping[str, Role] | None = None
    ) -> None:
        """Start from a caller's arrays, with roles where their names do not say.

        Raises
        ------
        ValueError
            If a role has a density or a format and no tensors, a role is that of no
            array, there are too many arrays, or as :meth:`resume`.
        """
        initial = arrays_of(arrays)
        if unknown := sorted((roles or {}).keys() - initial.keys()):
            raise ValueError(
                "roles must name arrays of the adapter, got "
                f"{printable(unknown[0], 100)!r}; there are {len(initial)}: "
                f"{printable(', '.join(initial), 200)}"
            )
        layout = Layout.of(initial, roles)
        self.method.scoring.roles.require_tensors(layout)
        require_head(self.value_format, layout)
        require_sendable([layout])
        vector = self._initial(layout, layout.flatten(initial))
        self.resume(RunState(layout, vector, self.optimizer.init(layout.size)))

    def resume(self, state: RunState) -> None:
        """Continue from a state.

        Raises
        ------
        ValueError
            If the run's bytes are too few for any payload.
        """
        self._state = state
        self.bases = None
        if state.bases:
            self.take_bases(state.bases)
        self._require_bytes(self.allotment.most)
        self._reset_downloads()

    def open_round(self) -> None:
        """Forget what an earlier round collected without making a step."""
        self.state.fleet.open_round()
        self._ranks.open_round()

    def budget_of(self, client: Participant) -> Budget:
        """Return what a client uses in this turn, at the rank that it was given."""
        rank = self._ranks.of(client, self.state)
        budget = self.allotment.at(self.turn, client.budget, rank)
        if (count := self.method.upload_segments) == 1:
            return budget
        return replace(budget, segment=segment_of(client.name, self.turn, count))

    def cut(self, rank: int | None) -> Truncation:
        """Return the adapter cut to a rank, as the method scales it."""
        return truncation(self.state.layout, rank, self.method.rank_scale)

    def encode(self, budget: Budget) -> Download:
        """Return what a budget receives: selected and encoded once."""
        return self.downloads.at(budget)

    def aggregator(self, *, weight_ratio: float) -> Aggregator:
        """Return an empty aggregator for this turn's updates.

        Parameters
        ----------
        weight_ratio : float
            Largest weight of a client, in multiples of the cohort's median; 0 is
            unlimited.
        """
        make = aggregator(
            self.method.aggregation,
            exact_residual=self.method.exact_residual,
            weight_ratio=weight_ratio,
            turn=self.turn,
            tuning=self.method.tuning,
        )
        return make(self.state.layout, self.state.vector)

    def step(self, aggregate: Aggregate) -> None:
        """Step along the cohort's aggregate, the negative gradient.

        Raises
        ------
        NotFiniteError
            If the aggregate, or what the step makes of it, is not finite. The state is
            then as it was.
        """
        state = self.state
        parts = self.method.trainable_at(self.turn).parts(state.layout)
        checked_step(state, self.optimizer, parts, aggregate)
        state.fleet.stepped()
        self._ranks.assign(state)
        self._reset_downloads()

    def measure(self, client: str, contribution: Contribution) -> None:
        """Measure a client's validation loss, in the turn that decides the ranks."""
        if self.assigns_ranks:
            self._ranks.measure(client, contribution, self.state)

    def received(self) -> ArrayRecord:
        """Return the adapter as clients receive it now: masked and rounded."""
        return self.downloads.received(self.most)

    def merged(self) -> Merged:
        """Return what clients merge into the backbone now: rounded."""
        return self.downloads.merged

    def _require_bytes(
        self, budget: Budget, *, stated: Callable[[int], int] = int
    ) -> None:
        require_bytes(
            budget,
            self.cut(budget.rank).layout,
            self.value_format,
            self.method.scoring,
            lower=[self.cut(budget.at_most(self.allotment.low_rank).rank).layout],
            stated=stated,
        )

    def _initial(self, layout: Layout, vector: Vector) -> Vector:
        """Return the first server vector, with A from the seed if it is shared."""
        if self.init_seed is None:
            return vector
        for tensor, place in layout.slices():
            if tensor.role == Role.A:
                vector[place] = seeded_factors(layout, self.init_seed)[place]
        return vector

    def _reset_downloads(self) -> None:
        state = self.state
        selection = TurnSelection(
            self.method,
            state,
            self.turn,
            cut=self.cut,
            init_seed=self.init_seed,
            steady=self.allotment.download_decay == 1,
        )
        follow = None
        if self.method.error_feedback == "both":
            follow = Following(
                state.fleet,
                self.turn,
                select=selection.select,
                value_format=self.value_format,
                init_seed=self.init_seed,
            ).download
        self.downloads = Downloads(
            state.layout,
            state.vector,
            state.merged,
            cut=self.cut,
            select=selection.select,
            value_format=self.value_format,
            init_seed=self.init_seed,
            keep=selection.keep,
            follow=follow,
        )
