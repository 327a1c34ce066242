"""Record vectors of a real run, for ``benchmarks/codec.py --masks``.

Trains the digits task with FLASC in one process (a quarter of the weights down, whole
updates up) and records, after some rounds, the server vector (downloads are selected
from it) and one client's whole update (its upload would be selected from it).

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/record_masks.py masks.npz
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
    parser.add_argument("--clients", type=int, default=20)
    given = parser.parse_args()
    np.savez_compressed(given.path, **recorded(given.rounds, given.clients))


def recorded(rounds: list[int], clients: int) -> dict[str, np.ndarray]:
    """Return the arrays of the vectors after these rounds, ``round what/name``."""
    config = RunConfig.parse({"upload-density": 1.0, "value-format": "float32"})
    grid = LastUpdate(client_app.app, clients, run_config=config.to_dict())
    arrays: dict[str, np.ndarray] = {}

    def record(checkpoint):
        if checkpoint.round not in rounds:
            return
        layout, weights = checkpoint.state.layout, checkpoint.state.vector
        update = decode(grid.payload, size=layout.size).densify()
        for what, vector in (("weights", weights), ("update", update)):
            for name, array in layout.unflatten(vector).items():
                arrays[f"{checkpoint.round} {what}/{name}"] = array

    strategy = Flasc(
        upload_density=config.upload_density,
        values=config.value_format,
        fraction_train=config.sampling.fraction_train,
        server_optimizer=config.make_server_optimizer(),
        on_checkpoint=record,
    )
    initial = array_record(read_adapter(load_task(config).model))
    strategy.start(grid, initial, max(rounds))
    return arrays


if __name__ == "__main__":
    main()
