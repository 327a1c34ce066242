"""A run: everything that its rounds work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flasc_flwr.core.aggregation import Aggregate, Aggregator
from flasc_flwr.core.finite import NotFiniteError
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.outliers import ENOUGH
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.clients.cohort_bounds import with_capped_weights
from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.paces import Paces
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.roster import Roster
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.server.downloads import Download
from flasc_flwr.flower.server.evaluation import EvaluateFn, evaluate_received
from flasc_flwr.flower.server.inbox import Inbox
from flasc_flwr.flower.server.instructing import instructions_for
from flasc_flwr.flower.server.outbox import Outbox, with_budgets
from flasc_flwr.flower.server.records import Records
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.ledger import Ledger


class Waiting(TypedDict):
    """How :func:`~.exchange` waits for replies."""

    enough: int | None
    waiting: Callable[[], AbstractContextManager[None]]
    surplus: Callable[[Message], None]
    meanwhile: Callable[[], None]
    away: Callable[[int], None]
    silent: Callable[[int, str], None]
    came: Callable[[int, Message], None]
    unusable: Callable[[], int]


@dataclass(kw_only=True)
class Run:
    """Everything that the rounds of a run work with.

    Attributes
    ----------
    grid : Grid
        Reaches the clients.
    server : ServerVector
        The server vector and its method.
    sampling : Sampling
        How cohorts are drawn.
    guard : Guard
        Which updates are let in.
    private : Private, optional
        Clips updates and adds noise to their sum, in a private run.
    records : Records
        Keys in messages, and how clients' metrics are averaged.
    uniform : bool
        Whether every client has weight 1, or its number of examples.
    timeout : float
        Seconds to wait for the replies of a round, and for enough nodes.
    train_config, evaluate_config : ConfigRecord
        Sent to the clients.
    evaluate_fn : EvaluateFn, optional
        Evaluates arrays at the server.
    evaluate_at : Callable[[int], bool]
        Whether a round is evaluated at the server.
    result : Result
        Filled with metrics, as Flower's strategies do.
    """

    grid: Grid
    server: ServerVector
    sampling: Sampling
    guard: Guard
    private: Private | None
    records: Records
    uniform: bool
    timeout: float
    train_config: ConfigRecord
    evaluate_config: ConfigRecord
    evaluate_fn: EvaluateFn | None
    evaluate_at: Callable[[int], bool]
    result: Result
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        """Begin with clients that have not introduced themselves."""
        # A run that resumes after its last round has no other.
        self.ledger = Ledger(0, Traffic(), self.server.state.layout)
        self._paces = Paces(self.timeout)
        self._roster = Roster(
            self.server.own_budget,
            self.timeout,
            came=self._paces.came,
            admitted=self.server.admitted,
        )

    def open_round(self, current: int) -> list[Participant]:
        """Begin a round's row, once enough clients are online; return these."""
        state = self.server.state
        self.ledger = Ledger(current, state.traffic, state.layout)
        return self._online()

    def sample(self, current: int) -> list[Participant]:
        """Return the clients that train in a round, with this turn's budgets."""
        online = self._online()
        self.ledger.outcome.online = len(online)
        if self.private:
            drawn = self.private.draw(self.sampling, online, current)
            # What one client is served must not depend on the others.
            return with_budgets(map(self._paces.paced, drawn), self.server, most=None)
        drawn = self.sampling.training(
            online, current, everyone=self.server.assigns_ranks
        )
        return with_budgets(map(self._paces.paced, drawn), self.server)

    def training_messages(
        self, cohort: list[Participant], downloads: Mapping[Budget, Download]
    ) -> list[Message]:
        """Return what each client is to train."""
        server = self.server
        server.open_round()
        clip_norm = self.private.client_clip_norm if self.private else None
        for client in cohort:
            download = downloads[client.budget]
            self.ledger.downloaded(download.kept, download.dead_modules)
            layout = server.cut(client.budget.rank).layout
            self._paces.warn(client, layout.size, server.value_format)
        instructions = {b: instructions_for(server, b, clip_norm) for b in downloads}
        return self._sent(cohort, downloads, instructions, MessageType.TRAIN)

    def inbox(self, cohort: Iterable[Participant]) -> Inbox:
        """Return what reads the replies of a cohort."""
        return Inbox(
            asked={client.node_id: client for client in cohort},
            server=self.server,
            guard=self.guard,
            private=self.private,
            weighted_by_key=self.records.weighted_by_key,
            uniform=self.uniform,
            ledger=self.ledger,
        )

    def aggregator(self) -> Aggregator:
        """Return what adds up the updates; weights are capped by the cohort's median.

        In a private run all weights are 1. Too few clients have no median.
        """
        capped = not self.private and self.ledger.outcome.asked >= ENOUGH
        ratio = self.guard.examples_ratio if capped else 0.0
        return self.server.aggregator(weight_ratio=ratio)

    def waiting(self, inbox: Inbox, cohort: list[Participant] | None = None) -> Waiting:
        """Return how long to wait for replies; a cohort that trains may be too large.

        Parameters
        ----------
        inbox : Inbox
            Reads the replies.
        cohort : list[Participant], optional
            The clients, if some of their replies may not be needed.
        """
        enough = None if cohort is None else self.sampling.enough(cohort)
        outcome = self.ledger.outcome
        return {
            "enough": enough and max(enough, self.guard.min_replies),
            "waiting": partial(self.ledger.phase, "clients"),
            "surplus": inbox.surplus,
            "meanwhile": partial(self._roster.listen, self.grid, self.ledger),
            "away": self._roster.away,
            "silent": self.ledger.silent,
            "came": self._paces.came,
            "unusable": lambda: outcome.unusable,
        }

    def has_enough(self, aggregator: Aggregator) -> bool:
        """Return whether a round has enough updates for a step; note it if not."""
        fewest = self.guard.min_replies
        if self.private:
            fewest = self.private.fewest(fewest)
        if aggregator.count >= fewest:
            return True
        self.ledger.skip(f"{aggregator.count} valid replies, at least {fewest} needed")
        return False

    @np.errstate(over="ignore", invalid="ignore")  # the step checks what comes of it
    def release(self, aggregator: Aggregator) -> Aggregate:
        """Return the cohort's aggregate; in a private run with noise, accounted for."""
        if not self.private:
            return aggregator.result()
        aggregate, spent = self.private.release(aggregator)
        self.ledger.measured(spent)
        return aggregate

    def step(self, aggregate: Aggregate) -> bool:
        """Step along a cohort's aggregate; note it if that is not finite."""
        try:
            self.server.step(aggregate)
        except NotFiniteError as error:
            self.ledger.outcome.skipped = str(error)
            self.ledger.skip(str(error))
            return False
        return True

    def report_training(self, metrics: list[RecordDict]) -> None:
        """Note what clients measured while they trained, averaged.

        Not in a private run: these numbers have no noise.
        """
        if self.private or not metrics:
            return
        averaged = self.records.train_metrics(self._capped(metrics))
        self._note("train", averaged, self.result.train_metrics_clientapp)

    def evaluate_at_clients(self, current: int) -> None:
        """Let some clients evaluate what they receive of the new server vector.

        Clients that have left are not waited for: the round has made its step.
        """
        server = self.server
        with self.ledger.phase("select"):
            online = self._roster.now(self.grid, self.ledger)
            drawn = self.sampling.evaluating(online, current)
            cohort = with_budgets(map(self._paces.paced, drawn), self.server)
            downloads = {one.budget: server.encode(one.budget) for one in cohort}
            instructions = {
                budget: Instructions(
                    init_seed=server.init_seed, prescribed=budget.prescribed
                )
                for budget in downloads
            }
            messages = self._sent(cohort, downloads, instructions, MessageType.EVALUATE)
        with self.ledger.phase("aggregate"):
            inbox = self.inbox(cohort)
            waiting = self.waiting(inbox)
            replies = exchange(self.grid, messages, self.timeout, **waiting)
            metrics = inbox.metrics_in(replies)
            if not metrics:
                return
            averaged = self.records.evaluate_metrics(self._capped(metrics))
        self._note("clients", averaged, self.result.evaluate_metrics_clientapp)

    def evaluate_at_server(self, current: int) -> None:
        """Evaluate what clients receive, and the dense server vector, if it is due."""
        if self.evaluate_at(current):
            self._evaluate(current)

    def evaluate_the_last(self) -> None:
        """Evaluate at the end of a run, if its last round was not."""
        if not self.evaluate_at(self.ledger.round):
            self._evaluate(self.ledger.round)

    def _evaluate(self, current: int) -> None:
        if self.evaluate_fn:
            with self.ledger.phase("evaluate"):
                metrics = evaluate_received(self.server, current, self.evaluate_fn)
            self.ledger.evaluated(metrics)
            self.result.evaluate_metrics_serverapp[current] = MetricRecord(metrics)

    def _note(
        self,
        prefix: str,
        averaged: MetricRecord | None,
        by_round: dict[int, MetricRecord],
    ) -> None:
        """Put clients' averaged metrics into the row and the result."""
        if averaged is not None:
            self.ledger.measured({f"{prefix}_{n}": averaged[n] for n in averaged})
            by_round[self.ledger.round] = averaged

    def _capped(self, metrics: list[RecordDict]) -> list[RecordDict]:
        """Return clients' metrics with weights within the cohort's bound."""
        return with_capped_weights(
            metrics, self.records.weighted_by_key, self.guard.examples_ratio
        )

    def _online(self) -> list[Participant]:
        return self._roster.present(
            self.grid, self.ledger, at_least=self.sampling.min_available_nodes
        )

    def _sent(
        self,
        cohort: list[Participant],
        downloads: Mapping[Budget, Download],
        instructions: Mapping[Budget, Instructions],
        message_type: str,
    ) -> list[Message]:
        """Return one message for each client, counted as sent."""
        trains = message_type == MessageType.TRAIN
        outbox = Outbox(
            server=self.server,
            records=self.records,
            config=self.train_config if trains else self.evaluate_config,
            message_type=message_type,
            round=self.ledger.round,
            timeout=self.timeout,
        )
        messages = outbox.messages(cohort, downloads, instructions)
        self.ledger.sent(messages, [one.name for one in cohort])
        return messages
