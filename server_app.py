"""The ServerApp: builds everything from the run config, and runs it."""

from logging import INFO
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from flasc_flwr import Flasc
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting import RunFolder
from flasc_flwr.app.reporting.resuming import Resumed
from flasc_flwr.app.reporting.summary import nothing_trained
from flasc_flwr.core.layout import Arrays
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.release_ledger import ReleaseLedger
from flasc_flwr.flower.state.checkpoint_files import Checkpoints
from flasc_flwr.flower.wire import array_record, arrays_of

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated LoRA fine-tuning, and leave its results in a folder."""
    config = RunConfig.parse(context.run_config)

    resumed = Resumed.of(config) if config.resume else None
    if resumed and resumed.nothing:
        log(INFO, "Nothing to resume in %s: %s", resumed.folder, resumed.nothing)
        return

    from flasc_flwr.app.tasks import load_task
    from flasc_flwr.app.training.export import load_into, save
    from flasc_flwr.app.training.lora import read_adapter

    if resumed:
        folder = RunFolder.reopen(resumed, config)
    else:
        folder = RunFolder.create(config, run_id=context.run_id)
    with folder:
        task = load_task(config)

        if config.adapter:
            load_into(task.model, config.adapter, config)

        def export(path: Path) -> None:
            task.load_adapter(arrays_of(strategy.server.received()))
            save(task.model, path, strategy.server.merged(), task.scale)

        def on_round(row: dict[str, Any]) -> None:
            folder.add_row(row, strategy.state)
            every = config.export_every
            if every and row["round"] > 0 and row["round"] % every == 0:
                export(folder.adapter(row["round"]))

        def validation_loss(arrays: Arrays) -> float:
            task.load_adapter(arrays, strategy.server.merged())
            return task.evaluate(task.data.validation).loss

        strategy = Flasc(
            method=config.compose(),
            validation=ValidationRanks(
                loss_of=validation_loss,
                low_rank=config.low_rank,
                fraction=config.high_rank_fraction,
            ),
            download_density=config.download_density,
            upload_density=config.upload_density,
            decay=config.decay,
            values=config.value_format,
            weighting=config.weighting,
            server_optimizer=config.make_server_optimizer(),
            guard=config.guard,
            stop=config.stop,
            privacy=config.privacy,
            release_ledger=ReleaseLedger(folder.releases) if config.privacy else None,
            on_round=on_round,
            on_checkpoint=(
                Checkpoints(folder.checkpoints, config.checkpoint_every)
                if config.checkpoint_every
                else None
            ),
            resume=resumed.checkpoint if resumed else None,
            run_settings=config.shared_by_resumed(),
            evaluate_every=config.evaluate_every,
            **config.sampling.arguments(),
        )

        def evaluate_fn(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            task.load_adapter(arrays_of(arrays), strategy.server.merged())
            outcome = task.evaluate(task.data.test)
            return MetricRecord({"accuracy": outcome.accuracy, "loss": outcome.loss})

        strategy.start(
            grid=grid,
            initial_arrays=array_record(read_adapter(task.model)),
            num_rounds=config.num_server_rounds,
            timeout=config.round_timeout,
            evaluate_fn=evaluate_fn,
        )
        if reason := nothing_trained(strategy.state.history):
            raise RuntimeError(reason)
        export(folder.adapter())
        folder.finish(strategy.ended or "all rounds done", strategy.by_tensor())
