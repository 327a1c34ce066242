"""The FLASC strategy: Flower's arguments, and the loop over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flasc_flwr.core.aggregation import WEIGHTINGS
from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.layout import Role
from flasc_flwr.core.methods.budget import AUTO, Budget
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import ServerOptimizer
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.ranges import choice, integer
from flasc_flwr.core.stopping import Stop
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.between_rounds import BetweenRounds
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.compat import (
    aggregate_metricrecords,
    log,
    skip_unreadable_replies,
)
from flasc_flwr.flower.feedback.participation import warn_if_seldom
from flasc_flwr.flower.measuring import measure_bases
from flasc_flwr.flower.own_rounds import OwnRounds
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.privacy.release_ledger import ReleaseLedger
from flasc_flwr.flower.privacy.requirements import require_private, unaccounted
from flasc_flwr.flower.privacy.withheld import reported_tensors
from flasc_flwr.flower.round import run_round
from flasc_flwr.flower.run import Run
from flasc_flwr.flower.server import settings
from flasc_flwr.flower.server.evaluation import EvaluateFn
from flasc_flwr.flower.server.records import MetricsAggregation, Records
from flasc_flwr.flower.state.checkpoint import Checkpoint, as_json
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.state.run_state import RunState
from flasc_flwr.flower.state.tensor_report import by_tensor


class Flasc(OwnRounds):
    """Federated LoRA with sparse communication (FLASC, arXiv 2406.05233).

    Each round, every sampled client receives the largest entries of the server's
    weights, trains its whole adapter densely, and sends back the largest entries of
    its update (:func:`flasc_flwr.flower.round.run_round`). ClientApps take part with
    ``ClientApp(mods=[flasc_mod])``.

    Parameters
    ----------
    method : str or Method
        Name of the method, such as ``flasc`` or ``dense``, or a composition of your
        own, such as ``compose("flasc", quota="tensor")`` from
        :mod:`flasc_flwr.core.methods.table`. Default: ``flasc``.
    download_density, upload_density : float or str
        Largest fractions of the adapter that a client receives and sends, in (0, 1],
        or text such as ``1/4``; a node may set its own in its ``--node-config``.
        Ignored by ``dense``. Default: ``auto``, which is 1/4, or 1 with bytes.
    download_bytes, upload_bytes : int
        Most bytes of a payload each way; 0 is no limit. A node may set its own. Of the
        entries that the density allows, the largest that fit are sent, whatever the
        method. Default: 0.
    validation : ValidationRanks, optional
        How ranks are assigned; required by methods that do it by validation loss.
    decay : Decay, optional
        How fast the densities decay. Default: only with ``adapter-lth``, to 0.95 times
        the download density in each turn.
    error_feedback : str, optional
        What is remembered of what messages leave out, and sent later: ``none``, ``up``
        (what clients have trained) or ``both`` (what the server has not sent, too).
        Default: the method's own.
    feedback_decay : float
        Factor on a client's residual for each round since it was trained, in [0, 1].
        Default: 0.8.
    values : str
        Value format of both payloads. Default: ``auto``, the method's own.
    weighting : str
        ``uniform`` as in FLASC's code (default), or ``examples``: by
        `weighted_by_key`.
    server_optimizer : ServerOptimizer, optional
        Default: the method's own; for ``flasc`` AdamW, as in FLASC's code.
    seed : int
        Seed of the cohorts, and of initial factors that clients rebuild. Default: 0.
    on_round : Callable[[dict[str, Any]], None], optional
        Called with each finished row of the history.
    guard : Guard, optional
        Bounds on replies. Default: one reply is enough, of any norm.
    stop : Stop, optional
        Conditions for an early end. Default: none. See also `ended`.
    privacy : Privacy, optional
        Clipping and noise, for differential privacy of each client. Default: none.
    release_ledger : ReleaseLedger, optional
        Where a private run writes each release before it uses it, so that a resumed
        run accounts for all of them. Default: none, with a warning.
    on_checkpoint : Callable[[Checkpoint], None], optional
        Called with a copy of the run's state after each round, such as
        ``Checkpoints(folder, every=10)`` from
        :mod:`flasc_flwr.flower.state.checkpoint_files`.
    resume : Checkpoint, optional
        Resume from this state as if the run had never stopped.
    run_settings : Mapping[str, Any], optional
        More settings, such as those of the clients, that a resumed run must share.
    core_sides : Mapping[str, tuple[int, int]], optional
        (out, in) of each module that has a core, by the core's name; required where
        clients measure the bases of cores.
    roles : Mapping[str, Role], optional
        Roles of arrays whose names do not say (see :meth:`.Layout.of`). Default: none.
    on_clients : Callable[[list[Participant]], None], optional
        Called once with the clients that are there before the first round: what it
        raises ends the run.
    oversample : float
        How many times as many nodes train as replies are waited for, >= 1. Default: 1.
    evaluate_every : int
        Rounds between two calls of `evaluate_fn`; the last round always calls it.
        Default: 1.
    fraction_train, fraction_evaluate : float
        Fraction of the nodes that train, and that evaluate, in a round. Default: 0.5
        and 0.
    min_train_nodes, min_evaluate_nodes, min_available_nodes : int
        Least number of nodes in a round, and online before it begins. Default: 2.
    weighted_by_key : str
        Metric that holds a client's number of examples. Default: ``num-examples``.
    arrayrecord_key, configrecord_key : str
        Keys of the records in the messages. Default: ``arrays`` and ``config``.
    train_metrics_aggr_fn, evaluate_metrics_aggr_fn : MetricsAggregation, optional
        How clients' metrics are averaged. Default: the mean weighted by
        `weighted_by_key`.

    Attributes
    ----------
    server : ServerVector
        The server vector and the method.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        *,
        method: str | Method = "flasc",
        download_density: float | str = AUTO,
        upload_density: float | str = AUTO,
        download_bytes: int = Budget.download_bytes,
        upload_bytes: int = Budget.upload_bytes,
        validation: ValidationRanks | None = None,
        decay: Decay | None = None,
        error_feedback: str | None = None,
        feedback_decay: float = Fading.decay,
        values: str = "auto",
        weighting: str = "uniform",
        server_optimizer: ServerOptimizer | None = None,
        seed: int = Sampling.seed,
        on_round: Callable[[dict[str, Any]], None] | None = None,
        guard: Guard | None = None,
        stop: Stop | None = None,
        privacy: Privacy | None = None,
        release_ledger: ReleaseLedger | None = None,
        on_checkpoint: Callable[[Checkpoint], None] | None = None,
        resume: Checkpoint | None = None,
        run_settings: Mapping[str, Any] | None = None,
        core_sides: Mapping[str, tuple[int, int]] | None = None,
        roles: Mapping[str, Role] | None = None,
        on_clients: Callable[[list[Participant]], None] | None = None,
        oversample: float = Sampling.oversample,
        evaluate_every: int = 1,
        fraction_train: float = Sampling.fraction_train,
        fraction_evaluate: float = Sampling.fraction_evaluate,
        min_train_nodes: int = Sampling.min_train_nodes,
        min_evaluate_nodes: int = Sampling.min_evaluate_nodes,
        min_available_nodes: int = Sampling.min_available_nodes,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
    ) -> None:
        chosen = method if isinstance(method, Method) else compose(method)
        if error_feedback is not None:
            chosen = replace(chosen, error_feedback=error_feedback)
        choice(*WEIGHTINGS).require("weighting", weighting)
        integer(1).require("evaluate_every", evaluate_every)
        self.guard = guard or Guard()
        if privacy:
            # The fewer clients a cohort is drawn from, the more it reveals of each.
            min_available_nodes = max(min_available_nodes, privacy.population)
        self.server = settings.build(
            chosen,
            Budget.of(
                download_density=download_density,
                upload_density=upload_density,
                download_bytes=download_bytes,
                upload_bytes=upload_bytes,
                usual=chosen.usual_density,
            ),
            decay=decay or Decay(),
            values=values,
            optimizer=server_optimizer,
            seed=seed,
            validation=validation,
            fading=Fading(decay=feedback_decay),
            core_sides=core_sides,
        )
        self.sampling = Sampling(
            seed=seed,
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            oversample=oversample,
            poisson=privacy is not None and privacy.sampling == "poisson",
        )
        if privacy:
            require_private(
                chosen,
                privacy,
                weighting=weighting,
                sampling=self.sampling,
                min_replies=self.guard.min_replies,
            )
        self.records = Records(
            weighted_by_key=weighted_by_key,
            arrayrecord_key=arrayrecord_key,
            configrecord_key=configrecord_key,
            train_metrics_aggr_fn=train_metrics_aggr_fn or aggregate_metricrecords,
            evaluate_metrics_aggr_fn=(
                evaluate_metrics_aggr_fn or aggregate_metricrecords
            ),
        )
        self.privacy = privacy
        self.weighting = weighting
        self._evaluate_every = evaluate_every
        self._release_ledger = release_ledger
        self._run_settings = run_settings or {}
        self._roles = roles
        self._on_clients = on_clients
        self._run: Run | None = None
        self._stop = stop or Stop()
        self._between = BetweenRounds(
            server=self.server,
            settings=lambda: self.settings,
            stop=self._stop,
            resume=resume,
            on_round=on_round,
            on_checkpoint=on_checkpoint,
        )

    @property
    def state(self) -> RunState:
        """Everything that changes during the run: vector, moments, traffic, history.

        Raises
        ------
        RuntimeError
            Before the run has arrays.
        """
        return self.server.state

    @property
    def good(self) -> Checkpoint | None:
        """The state after the last round whose model was good; None before round 0."""
        return self._between.good

    @property
    def ended(self) -> str | None:
        """Why the run ended early; None if it did not."""
        return self._between.ended

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        sampling = self.sampling.shared_by_resumed().items()
        return {
            **self._run_settings,
            "privacy": as_json(self.privacy),
            "weighting": self.weighting,
            **{f"sampling {key}": value for key, value in sampling},
            **settings.shared(self.server),
        }

    def summary(self) -> None:
        """Log the configuration as a tree."""
        tree = (
            *settings.describe(self.server, self.weighting),
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
        """Run all rounds, or until a stop condition holds.

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
            Evaluates arrays at the server: what clients receive (metrics keep their
            names), and the dense server vector (prefix ``server_``). Called once
            where the two are equal. Names of other fields of the history, such as
            ``round`` and all that begin with ``train_`` or ``clients_``, are refused.

        Returns
        -------
        Result
            Arrays and metrics. The history with all byte counts is
            ``self.state.history``.

        Raises
        ------
        CheckpointError
            If the run to resume had another adapter or other settings.
        RunFailedError
            If the model became NaN or infinite, or no client can train. `state` is then
            the last good one.
        ValueError
            If `evaluate_fn` names a metric as another field of the history, or the
            head or another role has a density or a format of its own and no tensors.
        """
        log(INFO, "Starting %s strategy, %d rounds:", type(self).__name__, num_rounds)
        self.summary()
        if self.server.remembers:
            warn_if_seldom(self.sampling.fraction_train)
        first = self._between.begin(initial_arrays, self._roles)
        del initial_arrays  # as large as the server vector
        private = None
        if self.privacy:
            ledger = self._release_ledger
            private = Private(self.privacy, self.state.privacy, ledger)
            log(INFO, "\t%s", private.describe())
            decided = unaccounted(
                self.privacy, self._stop, min_replies=self.guard.min_replies
            )
            for what in decided:
                log(WARNING, "Not counted by epsilon, as it has no noise: %s", what)
        self._run = run = Run(
            grid=grid,
            server=self.server,
            sampling=self.sampling,
            guard=self.guard,
            private=private,
            records=self.records,
            uniform=self.weighting == "uniform",
            timeout=timeout,
            train_config=train_config or ConfigRecord(),
            evaluate_config=evaluate_config or ConfigRecord(),
            evaluate_fn=evaluate_fn,
            evaluate_at=lambda n: n % self._evaluate_every == 0 or n == num_rounds,
            result=Result(),
        )
        if self.ended:
            log(INFO, "Stopped before: %s", self.ended)
        rounds = () if self.ended else range(first, num_rounds + 1)
        with skip_unreadable_replies():
            for current in rounds:
                present = run.open_round(current)
                if current == first and self._on_clients:
                    self._on_clients(present)
                if current == 0:  # clients introduce themselves
                    run.evaluate_at_server(current)
                elif self.server.lacks_bases:
                    measure_bases(run, current)
                else:
                    run_round(run, current)
                self._between.close(run)
                if self.ended:
                    log(INFO, "Stopping early: %s", self.ended)
                    break
        run.result.arrays = self.server.downloads.arrays
        return run.result

    def by_tensor(self) -> dict[str, Any]:
        """Return what is sent of each tensor: now down, and in the last round up."""
        server = self.server
        download = server.encode(server.most)
        ledger = (
            self._run.ledger if self._run else Ledger(0, Traffic(), self.state.layout)
        )
        report = by_tensor(
            self.state.layout,
            download.sparse,
            len(download.payload),
            server.value_format,
            ledger.kept,
            self.state.traffic,
            ledger.round,
        )
        return reported_tensors(report) if self.privacy else report
