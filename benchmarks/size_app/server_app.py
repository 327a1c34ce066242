"""The server of both patterns: writes the seconds of each round."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict
from size_model import adapter

from flasc_flwr import Flasc
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.flower.wire import array_record

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that notes the seconds of each round."""

    note = None

    def configure_train(self, *arguments):  # noqa: D102
        self._began = time.perf_counter()
        return super().configure_train(*arguments)

    def aggregate_train(self, server_round, replies):  # noqa: D102
        result = super().aggregate_train(server_round, replies)
        seconds = time.perf_counter() - self._began
        self.note({"round": server_round, "seconds": seconds})
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config

    def note(row: dict) -> None:
        if row["round"]:
            with Path(config["rows"]).open("a") as file:
                file.write(json.dumps(row) + "\n")

    model = adapter(config["parameters"], "cpu")
    rounds = config["rounds"]
    if config["pattern"] == "plain":
        plain = TimedFedAvg(fraction_evaluate=0.0)
        plain.note = note
        initial = ArrayRecord(get_peft_model_state_dict(model))
        plain.start(grid, initial, num_rounds=rounds)
        return
    strategy = Flasc(
        method="flasc",
        download_density=config["density"],
        upload_density=config["density"],
        values=config["values"],
        weighting="examples",
        server_optimizer=SERVER_OPTIMIZERS[config["optimizer"]](),
        fraction_train=1.0,
        min_available_nodes=config["clients"],
        on_round=note,
    )
    strategy.start(grid, array_record(read_adapter(model)), num_rounds=rounds)
