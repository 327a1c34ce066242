"""The ServerApp: builds everything from the run config, and runs it."""

from logging import INFO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from flasc_flwr import Flasc
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.tuner import IDENTITY
from flasc_flwr.app.reporting import RunFolder
from flasc_flwr.app.reporting.answers import is_due
from flasc_flwr.app.reporting.resuming import Resumed
from flasc_flwr.app.reporting.summary import nothing_trained
from flasc_flwr.app.reporting.untrained import untrained
from flasc_flwr.core.layout import Arrays
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.release_ledger import ReleaseLedger
from flasc_flwr.flower.state.checkpoint_files import Checkpoints
from flasc_flwr.flower.state.health import DivergedError, RunFailedError
from flasc_flwr.flower.wire import array_record, arrays_of, views_of

if TYPE_CHECKING:
    from flasc_flwr.app.tasks import Task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated LoRA fine-tuning, and leave its results in a folder."""
    config = RunConfig.parse(context.run_config)
    resumed = Resumed.of(config) if config.resume else None
    if resumed and resumed.nothing:
        log(INFO, "Nothing to resume in %s: %s", resumed.folder, resumed.nothing)
        return
    if resumed:
        folder = RunFolder.reopen(resumed, config)
    else:
        folder = RunFolder.create(config, run_id=context.run_id)
    log(INFO, "Settings that differ from the defaults: %s", _differing(config))
    with folder:
        _Server(config, folder, resumed).run(grid)


def _differing(config: RunConfig) -> str:
    """Return the settings that differ from the defaults, in one line.

    Flower's parser drops what it does not understand: this line shows what arrived.
    """
    defaults = RunConfig().to_dict()
    given = config.to_dict().items()
    return " ".join(f"{k}={v!r}" for k, v in given if v != defaults[k]) or "none"


class _Server:
    """The server's side of a run: its task, its strategy and its run folder.

    Parameters
    ----------
    config : RunConfig
        Settings of the run.
    folder : RunFolder
        Where its results go.
    resumed : Resumed, optional
        The run that is resumed.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, resumed: Resumed | None
    ) -> None:
        from flasc_flwr.app.tasks import load_task
        from flasc_flwr.app.training.cores import sides_of
        from flasc_flwr.app.training.identity import identity_in, identity_of
        from flasc_flwr.app.training.lora import adapter_roles
        from flasc_flwr.app.training.start import load_into

        self.config = config
        self.folder = folder
        self.task: Task = load_task(config)
        if config.adapter:
            load_into(self.task.model, config.adapter, config)
        identity = identity_of(self.task.model, config)
        if resumed:
            identity = identity_in(resumed.checkpoint.settings.get(IDENTITY), identity)
        # Devices check that theirs is the same.
        self.identity = {IDENTITY: identity} if identity else {}
        self.roles = adapter_roles(self.task.model)
        self.answered = folder.answered
        self.checkpoints = None
        if config.checkpoint_every:
            self.checkpoints = Checkpoints(folder.checkpoints, config.checkpoint_every)
        self.strategy = Flasc(
            method=config.compose(),
            validation=ValidationRanks(
                loss_of=self.validation_loss,
                low_rank=config.low_rank,
                fraction=config.high_rank_fraction,
            ),
            download_density=config.download_density,
            upload_density=config.upload_density,
            download_bytes=config.download_bytes,
            upload_bytes=config.upload_bytes,
            decay=config.decay,
            feedback_decay=config.feedback_decay,
            values=config.values,
            weighting=config.weighting,
            server_optimizer=config.make_server_optimizer(),
            guard=config.guard,
            stop=config.stop,
            privacy=config.privacy,
            release_ledger=ReleaseLedger(folder.releases) if config.privacy else None,
            on_round=self.on_round,
            on_checkpoint=self.checkpoints,
            resume=resumed.checkpoint if resumed else None,
            run_settings=config.shared_by_resumed() | self.identity,
            core_sides=sides_of(self.task.model),
            roles=self.roles,
            on_clients=self.check_clients,
            evaluate_every=config.evaluate_every,
            **config.sampling.arguments(),
        )

    def run(self, grid: Grid) -> None:
        """Run all rounds, and write the results."""
        from flasc_flwr.app.training.lora import read_adapter

        strategy, config, folder = self.strategy, self.config, self.folder
        try:
            strategy.start(
                grid=grid,
                initial_arrays=array_record(read_adapter(self.task.model)),
                num_rounds=config.num_server_rounds,
                timeout=config.round_timeout,
                train_config=ConfigRecord(self.identity),
                evaluate_config=ConfigRecord(self.identity),
                evaluate_fn=self.evaluate,
            )
        except DivergedError:
            self.keep_last_good()
            raise
        if reason := nothing_trained(strategy.state.history):
            raise RunFailedError(reason)
        self.export(folder.adapter())
        folder.finish(
            strategy.ended or "all rounds done",
            strategy.by_tensor(),
            warnings=self.warnings(),
            measured=self.answer_at_the_end(),
        )

    def check_clients(self, clients: list[Participant]) -> None:
        """Find out before the first round whether the data can be split.

        Raises
        ------
        ValueError
            If it cannot.
        """
        from flasc_flwr.app.tasks.partition_check import check_partitions

        check_partitions(self.task, (client.partitions for client in clients))

    def on_round(self, row: dict[str, Any]) -> None:
        """Write a finished row, and the adapter if it is due."""
        self.folder.add_row(row, self.strategy.state)
        every = self.config.export_every
        if every and row["round"] > 0 and row["round"] % every == 0:
            self.export(self.folder.adapter(row["round"]))

    def export(self, path: Path) -> None:
        """Save the adapter as clients receive it now."""
        from flasc_flwr.app.training.export import save

        server = self.strategy.server
        self.task.load_adapter(arrays_of(server.received()), bases=self.bases)
        save(self.task.model, path, server.merged(), self.task.scale)

    @property
    def bases(self) -> Arrays:
        """The measured bases of cores; empty without any."""
        return self.strategy.state.bases

    def warnings(self) -> list[str]:
        """Return what is wrong with the adapter that the run leaves."""
        server = self.strategy.server
        if server.merged():  # the backbone holds what was trained
            return []
        said = untrained(arrays_of(server.received()), self.roles)
        return [said] if said else []

    def keep_last_good(self) -> None:
        """Leave the last good state of a run that became NaN or infinite."""
        good = self.strategy.good
        if good is None:
            return
        if self.checkpoints:
            self.checkpoints.keep(good)
        self.export(self.folder.adapter())
        log(INFO, "Its last good adapter: %s", self.folder.adapter())

    def validation_loss(self, arrays: Arrays) -> float:
        """Return the loss of a client's adapter on the validation data."""
        self.task.load_adapter(arrays, self.strategy.server.merged(), self.bases)
        return self.task.evaluate(self.task.data.validation).loss

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate an adapter on the test data.

        Raises
        ------
        RuntimeError
            If the loss before the first round is not finite.
        """
        merged = self.strategy.server.merged()
        self.task.load_adapter(views_of(arrays), merged, self.bases)
        measured = self.task.measure(self.task.data.test)
        if server_round == 0 and not isfinite(measured["loss"]):
            raise RuntimeError(
                f"the loss before the first round is {measured['loss']}: the model, "
                "the adapter or the test rows have values that are not finite"
            )
        return MetricRecord(measured | self.answer(server_round))

    def answer(self, current: int) -> dict[str, float]:
        """Let the loaded adapter answer test prompts if it is due; return the scores.

        In a round, that is what clients receive: it is evaluated first.
        """
        config, answering = self.config, self.task.answering
        due = is_due(
            config.evaluate_generate, self.answered, current, config.num_server_rounds
        )
        if answering is None or not due:
            return {}
        from flasc_flwr.app.tasks.instruction.answering import means

        rows = answering(self.task.model)
        self.folder.add_answers(current, rows)
        self.answered = current
        return means(rows)

    def answer_at_the_end(self) -> dict[str, float]:
        """Let the last adapter answer where a run has stopped before its last round."""
        last = self.strategy.state.history[-1]["round"]
        if self.answered in (None, last):
            return {}
        self.answered = None
        return self.answer(last)
