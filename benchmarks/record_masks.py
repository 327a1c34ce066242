"""Record vectors of a real run, for ``benchmarks/codec.py --masks``.

Trains the digits task with FLASC at a quarter download, in one process, and records in
some rounds the server vector (what downloads are selected from) and one client's whole
update (what its upload would be selected from).
Run: python benchmarks/record_masks.py masks.npz [--rounds 1 10 40]
"""

import argparse
from pathlib import Path

import numpy as np

import client_app
from flasc_flwr import Flasc
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.codec import decode
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, payload_of


class LastUpdate(LocalGrid):
    """Keeps the payload of the last update that came in."""

    payload = b""

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if "arrays" in reply.content:
                self.payload = payload_of(reply.content["arrays"])
        return replies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 10, 40])
    arguments = parser.parse_args()
    config = RunConfig(upload_density=1.0, value_format="float32")
    grid = LastUpdate(client_app.app, 20, run_config=config.to_dict())
    recorded: dict[str, np.ndarray] = {}

    def record(row):
        if row["round"] not in arguments.rounds:
            return
        layout = strategy.state.layout
        update = decode(grid.payload, size=layout.size).densify()
        for what, vector in (("weights", strategy.state.vector), ("update", update)):
            for name, array in layout.unflatten(vector).items():
                recorded[f"{row['round']} {what}/{name}"] = array

    strategy = Flasc(
        upload_density=config.upload_density,
        values=config.value_format,
        fraction_train=config.sampling.fraction_train,
        server_optimizer=config.make_server_optimizer(),
        on_round=record,
    )
    initial = array_record(read_adapter(load_task(config).model))
    strategy.start(grid, initial, max(arguments.rounds))
    np.savez_compressed(arguments.path, **recorded)


if __name__ == "__main__":
    main()
