"""The server of Flower's LLM examples: FedAvg on whole adapters; notes its times."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that writes the seconds of each round."""

    def __init__(self, output: Path, **settings: object) -> None:
        super().__init__(**settings)
        self._output = output
        self._began = 0.0

    def configure_train(self, *arguments):  # noqa: D102
        self._began = time.perf_counter()
        return super().configure_train(*arguments)

    def aggregate_train(self, server_round, replies):  # noqa: D102
        replies = list(replies)
        result = super().aggregate_train(server_round, replies)
        row = {
            "round": server_round,
            "seconds": time.perf_counter() - self._began,
            "replies": sum(reply.has_content() for reply in replies),
        }
        with (self._output / "history.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = RunConfig.parse(context.run_config)
    output = Path(config.output_dir) / "run"
    output.mkdir(parents=True)
    strategy = TimedFedAvg(
        output,
        fraction_train=config.sampling.fraction_train,
        fraction_evaluate=0.0,
        min_train_nodes=config.sampling.min_train_nodes,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(load_task(config).model)),
        num_rounds=config.num_server_rounds,
    )
