"""The FLASC strategy: select, send, train, select, average, step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flasc_flwr.aggregation import WEIGHTINGS, Contribution
from flasc_flwr.assignment import ValidationRanks
from flasc_flwr.budget import Budget
from flasc_flwr.codec import VALUE_FORMATS
from flasc_flwr.flower.ledger import Ledger
from flasc_flwr.flower.loop import run_rounds
from flasc_flwr.flower.replies import metrics_of, update_of, usable
from flasc_flwr.flower.roster import Participant, Roster
from flasc_flwr.flower.sampling import Sampling
from flasc_flwr.flower.server import EvaluateFn, Server
from flasc_flwr.flower.state import ServerState
from flasc_flwr.flower.wire import Order
from flasc_flwr.method import Method
from flasc_flwr.methods import compose
from flasc_flwr.optimizers import SERVER_OPTIMIZERS, ServerOptimizer, Sgd
from flasc_flwr.ranges import choice, whole
from flasc_flwr.schedules import Decay
from flasc_flwr.traffic import Traffic

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]


class Flasc(Strategy):
    """Federated LoRA with sparse communication (FLASC, arXiv 2406.05233).

    Each round, every sampled client receives the top-k of the server's weights,
    trains all of its adapter densely, and sends back the top-k of its update. The
    mean update is the negative gradient of a server optimizer's step. The server
    vector itself is never masked. ClientApps take part with
    ``ClientApp(mods=[flasc_mod])``.

    Parameters
    ----------
    method : str or Method
        Name of the method, such as ``flasc``, or ``dense`` for the same without
        sparsity; or a composition of your own, such as
        ``compose("flasc", quota="tensor")`` from :mod:`flasc_flwr.methods`.
    download_density, upload_density : float
        Fractions of the adapter that a client receives and sends, in (0, 1]; a node
        may set its own in its ``--node-config``. Without effect for ``dense``.
    validation : ValidationRanks, optional
        How ranks are assigned; needed for methods that do it by validation loss.
    decay : Decay, optional
        How fast the densities decay; by default not at all.
    values : str
        Value format of both payloads; ``auto`` is the method's own.
    weighting : str
        ``uniform`` as in FLASC's code, or ``examples``: by `weighted_by_key`.
    server_optimizer : ServerOptimizer, optional
        By default the method's own with its defaults: AdamW with those of PyTorch
        for ``flasc``, as in FLASC's code.
    seed : int
        Seed of the cohorts, and of initial factors that clients rebuild.
    on_round : Callable[[dict[str, Any]], None], optional
        Told each finished row of the history.
    evaluate_every : int
        Call `evaluate_fn` only every so many rounds, and after the last.
    fraction_train, fraction_evaluate : float
        Fraction of the nodes that train, and that evaluate, in a round.
    min_train_nodes, min_evaluate_nodes, min_available_nodes : int
        Least numbers of nodes in a round, and online before it begins.
    weighted_by_key : str
        Metric that holds a client's number of examples.
    arrayrecord_key, configrecord_key : str
        Keys of the records in the messages.
    train_metrics_aggr_fn, evaluate_metrics_aggr_fn : MetricsAggregation, optional
        How the clients' metrics are put together; by default the mean weighted by
        `weighted_by_key`.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        method: str | Method = "flasc",
        download_density: float = 1 / 4,
        upload_density: float = 1 / 4,
        validation: ValidationRanks | None = None,
        decay: Decay | None = None,
        values: str = "auto",
        weighting: str = "uniform",
        server_optimizer: ServerOptimizer | None = None,
        seed: int = 0,
        on_round: Callable[[dict[str, Any]], None] | None = None,
        evaluate_every: int = 1,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 0.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
    ) -> None:
        chosen = method if isinstance(method, Method) else compose(method)
        choice("auto", *VALUE_FORMATS).require("values", values)
        choice(*WEIGHTINGS).require("weighting", weighting)
        whole(1).require("evaluate_every", evaluate_every)
        by_validation = chosen.rank_assignment == "validation"
        optimizer = server_optimizer or SERVER_OPTIMIZERS[chosen.server_optimizer]()
        if chosen.sets_factors and optimizer != Sgd():
            raise ValueError(
                f"server_optimizer is {optimizer}, but method {chosen.name!r} sets the "
                f"factors anew each round: allowed is {Sgd()}"
            )
        if by_validation and validation is None:
            raise ValueError(
                f"validation is None, but method {chosen.name!r} assigns ranks by "
                "validation loss: give ValidationRanks(loss_of=...)"
            )
        self.server = Server(
            method=chosen,
            budget=Budget(
                download_density=download_density, upload_density=upload_density
            ),
            decay=decay or Decay(),
            value_format=chosen.value_format if values == "auto" else values,
            optimizer=optimizer,
            seed=seed,
            validation=validation if by_validation else None,
        )
        self.sampling = Sampling(
            seed=seed,
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
        )
        self.weighting = weighting
        self.on_round = on_round
        self.evaluate_every = evaluate_every
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or aggregate_metricrecords
        self.evaluate_metrics_aggr_fn = (
            evaluate_metrics_aggr_fn or aggregate_metricrecords
        )
        self._roster = Roster(self.server.budget_of)
        self._cohort: dict[int, Participant] = {}
        self._timeout = 3600.0
        self._ledger = Ledger(0, Traffic())

    @property
    def state(self) -> ServerState:
        """All that the run knows: vector, moments, traffic, history.

        Raises
        ------
        RuntimeError
            Before the run has arrays.
        """
        return self.server.state

    def summary(self) -> None:
        """Log the configuration as a tree."""
        tree = (
            *self.server.describe(),
            f"│\t└── Mean: {self.weighting}",
            *self.sampling.describe(),
            "└──> Keys in records:",
            f"\t├── Weighted by: '{self.weighted_by_key}'",
            f"\t├── ArrayRecord key: '{self.arrayrecord_key}'",
            f"\t└── ConfigRecord key: '{self.configrecord_key}'",
        )
        for line in tree:
            log(INFO, "\t%s", line)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run all rounds.

        Parameters
        ----------
        grid : Grid
            The grid of the ServerApp.
        initial_arrays : ArrayRecord
            The adapter to start from.
        num_rounds : int
            Number of rounds.
        timeout : float
            Seconds to wait for the replies of a round, and for enough nodes.
        train_config, evaluate_config : ConfigRecord, optional
            Sent to the clients; ``server-round`` is added.
        evaluate_fn : EvaluateFn, optional
            Evaluates arrays at the server. Called for what clients can receive
            (its metrics keep their names) and for the dense server vector (its
            metrics get the prefix ``server_``); only once where the two are equal.

        Returns
        -------
        Result
            Arrays and metrics. The history with all byte counts is
            ``self.state.history``.
        """
        log(INFO, "Starting %s strategy, %d rounds:", type(self).__name__, num_rounds)
        self.summary()
        self._timeout = timeout
        self.server.adopt(initial_arrays)
        return run_rounds(
            self,
            grid,
            initial_arrays,
            num_rounds=num_rounds,
            timeout=timeout,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
        )

    def open_round(self, server_round: int, grid: Grid) -> None:
        """Begin a round's row, once enough nodes are there."""
        self._ledger = Ledger(server_round, self.state.traffic)
        self._present(grid)

    def close_round(self) -> None:
        """Finish the round's row, and tell it."""
        row = self._ledger.row()
        self.state.history.append(row)
        if self.on_round:
            self.on_round(row)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample the cohort, and encode the download once for each budget in it."""
        self.server.adopt(arrays)
        if self._ledger.round != server_round:  # driven by a loop other than ours
            self.open_round(server_round, grid)
        cohort = self.sampling.training(
            self._present(grid), server_round, everyone=self.server.assigns_ranks
        )
        messages = self._messages(cohort, MessageType.TRAIN, config, self.server.order)
        for participant in self._cohort.values():
            download = self.server.downloads.at(participant.budget)
            self._ledger.downloaded(download.kept, download.dead_modules)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates as they arrive, and step the server optimizer."""
        server, uniform = self.server, self.weighting == "uniform"
        aggregator = server.aggregator()
        metrics = []
        read = partial(
            update_of,
            cohort=self._cohort,
            cut=server.cut,
            weighted_by_key=self.weighted_by_key,
        )
        for update in usable(replies, read, self._ledger):
            weight = 1.0 if uniform else update.examples
            contribution = Contribution(update.sparse, update.rank, weight)
            aggregator.add(contribution)
            metrics.append(update.metrics)
            self._ledger.uploaded(update.sparse, update.rank)
            server.note_rank(update, contribution)
        if aggregator.count == 0:
            log(WARNING, "Round %d has no usable reply: skipped", server_round)
            return None, None
        arrays = server.step(aggregator.result())
        averaged = self.train_metrics_aggr_fn(metrics, self.weighted_by_key)
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
        read = partial(metrics_of, weighted_by_key=self.weighted_by_key)
        metrics = list(usable(replies, read, self._ledger))
        if not metrics:
            return None
        averaged = self.evaluate_metrics_aggr_fn(metrics, self.weighted_by_key)
        self._ledger.measured({f"clients_{name}": averaged[name] for name in averaged})
        return averaged

    def evaluate_received(
        self, server_round: int, evaluate_fn: EvaluateFn
    ) -> MetricRecord:
        """Evaluate what clients can receive, and the dense server vector."""
        metrics = self.server.evaluate(server_round, evaluate_fn)
        self._ledger.measured(metrics)
        return MetricRecord(metrics)

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
            arrayrecord_key=self.arrayrecord_key,
            configrecord_key=self.configrecord_key,
        )
        self._ledger.sent(messages, [p.name for p in cohort])
        return messages

    def _present(self, grid: Grid) -> list[Participant]:
        return self._roster.present(
            grid,
            self._ledger,
            at_least=self.sampling.min_available_nodes,
            timeout=self._timeout,
        )
