"""The server's side of a method: its vector, how it steps, and what it sends."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, MetricRecord
from flwr.app.typing import MetricRecordValues

from flasc_flwr.budget import Budget
from flasc_flwr.flower.downloads import Downloads
from flasc_flwr.flower.state import ServerState
from flasc_flwr.flower.wire import Order, arrays_of
from flasc_flwr.layout import Layout, Vector
from flasc_flwr.methods import Method
from flasc_flwr.optimizers import ServerOptimizer
from flasc_flwr.schedules import Decay
from flasc_flwr.sparsity import SparseVector

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
"""Evaluates arrays at the server after a round."""


class Server:
    """Holds the server vector, dense, and makes what can be sent of it.

    Parameters
    ----------
    method : Method
        What is sent and trained.
    budget : Budget
        Densities of a client that sets none of its own.
    decay : Decay
        How fast densities decay.
    value_format : str
        Value format of the payloads.
    optimizer : ServerOptimizer
        Steps the server vector.
    """

    def __init__(
        self,
        *,
        method: Method,
        budget: Budget,
        decay: Decay,
        value_format: str,
        optimizer: ServerOptimizer,
    ) -> None:
        self.method = method
        self.budget = budget
        self.decay = decay
        self.value_format = value_format
        self.optimizer = optimizer
        self.downloads: Downloads
        self._state: ServerState | None = None

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

    def budget_now(self, own: Budget) -> Budget:
        """Return what a client with the budget `own` uses at this turn."""
        return self.method.budget(own, self.decay, self.turn)

    def order(self, budget: Budget) -> Order:
        """Return what is asked of a client's training with this turn's `budget`."""
        return Order(
            density=budget.upload_density,
            value_format=self.value_format,
            trains=self.method.trains_with(budget),
        )

    def adopt(self, arrays: ArrayRecord) -> None:
        """Take over a caller's arrays, unless they are the server's own."""
        if self._state and arrays is self.downloads.arrays:
            return
        plain = arrays_of(arrays)
        layout = Layout.of(plain)
        vector = layout.flatten(plain)
        if self._state is None or self._state.layout != layout:
            self._state = ServerState(layout, vector, self.optimizer.init(layout.size))
        self._state.vector = vector
        self._prepare()

    def step(self, update: Vector) -> ArrayRecord:
        """Step along the cohort's mean update, and return the new dense arrays."""
        state = self.state
        state.vector, state.optimizer = self.optimizer.step(
            state.vector, -update, state.optimizer
        )
        self._prepare()
        return self.downloads.arrays

    def received(self) -> ArrayRecord:
        """Return the adapter as clients receive it now: masked and rounded."""
        return self.downloads.received(self.budget_now(self.budget).download_density)

    def evaluate(
        self, server_round: int, evaluate_fn: EvaluateFn
    ) -> dict[str, MetricRecordValues]:
        """Evaluate what clients receive now, and the dense vector as ``server_...``.

        Only once where the two are equal.
        """
        received, whole = self.received(), self.downloads.arrays
        metrics = dict(evaluate_fn(server_round, received) or {})
        dense = metrics
        if received != whole:
            dense = dict(evaluate_fn(server_round, whole) or {})
        return metrics | {f"server_{name}": dense[name] for name in dense}

    def describe(self) -> list[str]:
        """Return the settings as the first lines of a tree."""
        now = self.budget_now(self.budget)
        return [
            f"├──> Method: {self.method.name} ({self.method.source})",
            f"│\t├── Density in round 1: download ({now.download_density:.4g}) | "
            f"upload ({now.upload_density:.4g})",
            f"│\t├── Value format: {self.value_format}",
            f"│\t├── Server optimizer: {self.optimizer}",
        ]

    def _prepare(self) -> None:
        state = self.state

        def select(vector: Vector, density: float) -> SparseVector:
            return self.method.download(vector, density, state.supports)

        self.downloads = Downloads(
            state.layout, state.vector, select, self.value_format
        )
