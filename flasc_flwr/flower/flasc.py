"""The FLASC strategy: select, send, train, select, average, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flasc_flwr.core.aggregation import WEIGHTINGS
from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS, ServerOptimizer, Sgd
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.ranges import choice, integer
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import aggregate_metricrecords, log
from flasc_flwr.flower.loop import run_rounds
from flasc_flwr.flower.privacy.private import require_private
from flasc_flwr.flower.round import Rounds
from flasc_flwr.flower.server.evaluation import EvaluateFn
from flasc_flwr.flower.server.records import MetricsAggregation, Records
from flasc_flwr.flower.server.server_vector import Server
from flasc_flwr.flower.state.checkpoint import Checkpoint


class Flasc(Rounds):
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
        ``compose("flasc", quota="tensor")`` from :mod:`flasc_flwr.core.methods.table`.
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
    guard : Guard, optional
        Bounds on replies; by default one reply is enough, of any norm.
    stop : Stop, optional
        Conditions for an early end; by default none. Why a run ended is `ended`.
    privacy : Privacy, optional
        Clipping and noise, for differential privacy of each client; by default none.
    on_checkpoint : Callable[[Checkpoint], None], optional
        Given the run's state after each round, such as
        ``Checkpoints(folder, every=10)`` from
        :mod:`flasc_flwr.flower.state.checkpoint`.
    resume : Checkpoint, optional
        Go on from this state as if the run had never stopped.
    run_settings : Mapping[str, Any], optional
        More settings, such as of the clients, that a resumed run has to share.
    oversample : float
        How many times as many nodes train as are needed: a round goes on when the
        replies of as many as without it are there. At least 1.
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
        guard: Guard | None = None,
        stop: Stop | None = None,
        privacy: Privacy | None = None,
        on_checkpoint: Callable[[Checkpoint], None] | None = None,
        resume: Checkpoint | None = None,
        run_settings: Mapping[str, Any] | None = None,
        oversample: float = 1.0,
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
        integer(1).require("evaluate_every", evaluate_every)
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
        if not by_validation:
            validation = None
        server = Server(
            budgets=Allotment(
                method=chosen,
                most=Budget(
                    download_density=download_density, upload_density=upload_density
                ),
                decay=decay or Decay(),
                low_rank=validation.low_rank if validation else None,
            ),
            value_format=chosen.value_format if values == "auto" else values,
            optimizer=optimizer,
            seed=seed,
            validation=validation,
        )
        if privacy:
            require_private(
                chosen,
                weighting=weighting,
                oversample=oversample,
                fraction_evaluate=fraction_evaluate,
            )
            # Of fewer, a cohort says more of each.
            min_available_nodes = max(min_available_nodes, privacy.population)
        sampling = Sampling(
            seed=seed,
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            oversample=oversample,
            poisson=privacy is not None and privacy.sampling == "poisson",
        )
        super().__init__(
            server=server,
            sampling=sampling,
            guard=guard or Guard(),
            stop=stop or Stop(),
            privacy=privacy,
            weighting=weighting,
            records=Records(
                weighted_by_key=weighted_by_key,
                arrayrecord_key=arrayrecord_key,
                configrecord_key=configrecord_key,
                train_metrics_aggr_fn=train_metrics_aggr_fn or aggregate_metricrecords,
                evaluate_metrics_aggr_fn=(
                    evaluate_metrics_aggr_fn or aggregate_metricrecords
                ),
            ),
            run_settings=run_settings or {},
            evaluate_every=evaluate_every,
            on_round=on_round,
            on_checkpoint=on_checkpoint,
        )
        self._resume = resume

    def summary(self) -> None:
        """Log the configuration as a tree."""
        tree = (
            *self.server.describe(),
            f"│\t└── Mean: {self.weighting}",
            *self.sampling.describe(),
            *self.records.describe(),
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

        Raises
        ------
        CheckpointError
            If the run to be resumed had another adapter or other settings.
        """
        log(INFO, "Starting %s strategy, %d rounds:", type(self).__name__, num_rounds)
        self.summary()
        self._timeout = timeout
        first = 0
        self.server.adopt(initial_arrays)
        if self._resume:
            self._resume.require(self.settings, self.state.layout)
            self.server.restore(self._resume.state)
            first = self._resume.round + 1
            log(INFO, "The run goes on after round %d", self._resume.round)
        if self.private:  # made here, so that what it lacks is told first
            log(INFO, "\t%s", self.private.describe())
        return run_rounds(
            self,
            grid,
            self.server.downloads.arrays,
            first=first,
            num_rounds=num_rounds,
            timeout=timeout,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
        )
