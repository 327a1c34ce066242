"""The steps of a FLASC round: sample, send, take in, average, step, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from logging import WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.stopping import Stop
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.replies import Update, metrics_of, update_of, usable
from flasc_flwr.flower.clients.roster import Participant, Roster
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.server.evaluation import EvaluateFn, evaluate
from flasc_flwr.flower.server.records import Records
from flasc_flwr.flower.server.server_vector import Server
from flasc_flwr.flower.state.checkpoint import Checkpoint, plain
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.state.run_state import ServerState
from flasc_flwr.flower.state.tensor_report import by_tensor
from flasc_flwr.flower.wire import Order


class Rounds(Strategy):
    """What :class:`flasc_flwr.Flasc` does in a round.

    Attributes
    ----------
    enough : int or None
        How many replies the round that is under way waits for; None for all.
    ended : str or None
        Why the run is to end; None while it goes on.

    Parameters
    ----------
    server : Server
        The server vector and the method.
    sampling : Sampling
        Who takes part.
    guard : Guard
        What is let in.
    stop : Stop
        When the run ends early.
    privacy : Privacy or None
        How private the run is.
    weighting : str
        How clients count.
    records : Records
        Keys in messages, and how the clients' metrics are put together.
    run_settings : Mapping[str, Any]
        More settings that a resumed run has to share.
    evaluate_every : int
        Rounds between evaluations at the server.
    on_round : Callable[[dict[str, Any]], None], optional
        Told each finished row of the history.
    on_checkpoint : Callable[[Checkpoint], None], optional
        Given the run's state after each round.
    """

    def __init__(
        self,
        *,
        server: Server,
        sampling: Sampling,
        guard: Guard,
        stop: Stop,
        privacy: Privacy | None,
        weighting: str,
        records: Records,
        run_settings: Mapping[str, Any],
        evaluate_every: int,
        on_round: Callable[[dict[str, Any]], None] | None,
        on_checkpoint: Callable[[Checkpoint], None] | None,
    ) -> None:
        self.server = server
        self.sampling = sampling
        self.guard = guard
        self.stop = stop
        self.privacy = privacy
        self.weighting = weighting
        self.records = records
        self.run_settings = run_settings
        self.evaluate_every = evaluate_every
        self.on_round = on_round
        self.on_checkpoint = on_checkpoint
        self._roster = Roster(server.budgets.of)
        self._cohort: dict[int, Participant] = {}
        self._timeout = 3600.0
        self._ledger = Ledger(0, Traffic())
        self.enough: int | None = None
        self.ended: str | None = None

    @property
    def state(self) -> ServerState:
        """All that the run knows: vector, moments, traffic, history.

        Raises
        ------
        RuntimeError
            Before the run has arrays.
        """
        return self.server.state

    def open_round(self, server_round: int, grid: Grid) -> None:
        """Begin a round's row, once enough nodes are there."""
        state = self.state
        self._ledger = Ledger(server_round, state.traffic, state.layout)
        self._present(grid)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count the time in here as of one phase of the round."""
        return self._ledger.phases.of(name)

    def by_tensor(self) -> dict[str, Any]:
        """Return what a client receives of each tensor, and the last round sent."""
        server, ledger = self.server, self._ledger
        download = server.downloads.at(server.budget_now(server.budgets.most))
        return by_tensor(
            self.state.layout,
            download.sparse,
            len(download.payload),
            server.value_format,
            ledger.kept,
            self.state.traffic,
            ledger.round,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a run has to have in common with one that it goes on from."""
        return {
            **self.run_settings,
            "privacy": plain(self.privacy),
            "weighting": self.weighting,
            **{f"sampling {key}": v for key, v in plain(self.sampling).items()},
            **self.server.settings(),
        }

    def close_round(self) -> None:
        """Finish the round's row, tell it, and see whether the run is to end."""
        row = self._ledger.row()
        self.state.history.append(row)
        if self.on_round:
            self.on_round(row)
        if self.on_checkpoint:
            self.on_checkpoint(
                Checkpoint(self._ledger.round, self.settings, self.state)
            )
        self.ended = self.stop.reason(self.state.history, self.state.traffic)
        if self.private and not self.ended:
            self.ended = self.private.exhausted()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample the cohort, and encode the download once for each budget in it."""
        self.server.adopt(arrays)
        if self._ledger.round != server_round:  # driven by a loop other than ours
            self.open_round(server_round, grid)
        private = self.private
        sampling = private.sampling(self.sampling) if private else self.sampling
        cohort = sampling.training(
            self._present(grid), server_round, everyone=self.server.assigns_ranks
        )
        self.enough = sampling.enough(cohort)
        if private:
            private.open_round(len(cohort), sampling.fraction_train)
        messages = self._messages(cohort, MessageType.TRAIN, config, self._order)
        for participant in self._cohort.values():
            download = self.server.downloads.at(participant.budget)
            self._ledger.downloaded(download.kept, download.dead_modules)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates as they arrive, and step the server optimizer."""
        server, private = self.server, self.private
        uniform = self.weighting == "uniform"
        aggregator = server.aggregator()
        metrics = []
        for update in usable(replies, self._update_of, self._ledger):
            weight = 1.0 if uniform else update.examples
            contribution = Contribution(update.sparse, update.rank, weight)
            aggregator.add(contribution)
            metrics.append(update.metrics)
            self._ledger.uploaded(update.sparse, update.rank)
            server.note_rank(update, contribution)
        fewest = self.guard.min_replies
        if private:
            fewest = private.fewest(fewest)
        if aggregator.count < fewest:
            log(
                WARNING,
                "Round %d has %d usable replies, fewer than %d: skipped",
                server_round,
                aggregator.count,
                fewest,
            )
            self._ledger.skip()
            return None, None
        if private:
            aggregate, told = private.release(
                aggregator, size=self.state.layout.size, server_round=server_round
            )
            self._ledger.measured(told)
        else:
            aggregate = aggregator.result()
        del aggregator  # its sums are twice as large as the adapter
        arrays = server.step(aggregate)
        if private:
            return arrays, None  # what clients measured would be told without noise
        averaged = self.records.train_metrics(metrics)
        self._ledger.measured({f"train_{name}": averaged[name] for name in averaged})
        return arrays, averaged

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send some clients what they can receive of the new server vector."""
        self.server.adopt(arrays)
        cohort = self.sampling.evaluating(self._present(grid), server_round)
        return self._messages(
            cohort, MessageType.EVALUATE, config, self.server.question
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' metrics."""
        read = partial(metrics_of, weighted_by_key=self.records.weighted_by_key)
        metrics = list(usable(replies, read, self._ledger))
        if not metrics:
            return None
        averaged = self.records.evaluate_metrics(metrics)
        self._ledger.measured({f"clients_{name}": averaged[name] for name in averaged})
        return averaged

    def evaluate_received(
        self, server_round: int, evaluate_fn: EvaluateFn
    ) -> MetricRecord:
        """Evaluate what clients can receive, and the dense server vector."""
        metrics = evaluate(self.server, server_round, evaluate_fn)
        self._ledger.measured(metrics)
        return MetricRecord(metrics)

    @cached_property
    def private(self) -> Private | None:
        """What makes the run private; None if it is not."""
        return Private(self.privacy, self.state.privacy) if self.privacy else None

    def _order(self, budget: Budget) -> Order:
        """Return what is asked of a client that trains."""
        order = self.server.order(budget)
        return self.private.order(order) if self.private else order

    def _messages(
        self,
        drawn: list[Participant],
        message_type: str,
        config: ConfigRecord,
        order_of: Callable[[Budget], Order],
    ) -> list[Message]:
        """Make the messages of one exchange, each node's by its budget of this turn."""
        server = self.server
        cohort = [replace(p, budget=server.budget_now(p.budget, p.name)) for p in drawn]
        self._cohort = {p.node_id: p for p in cohort}
        messages = server.downloads.messages(
            cohort,
            message_type,
            server_round=self._ledger.round,
            order_of=order_of,
            config=config,
            records=self.records,
        )
        self._ledger.sent(messages, [p.name for p in cohort])
        return messages

    def _update_of(self, reply: Message) -> Update:
        """Read one reply of this round's cohort; a node's second one is refused."""
        server = self.server
        update = update_of(
            reply,
            self._cohort,
            server.cut,
            self.records.weighted_by_key,
            server.shared_support,
        )
        update = self.guard.let_in(update)
        if self.private:
            update = self.private.clip(update)
        # Whoever has been taken in is no longer asked.
        del self._cohort[reply.metadata.src_node_id]
        return update

    def _present(self, grid: Grid) -> list[Participant]:
        return self._roster.present(
            grid,
            self._ledger,
            at_least=self.sampling.min_available_nodes,
            timeout=self._timeout,
        )
