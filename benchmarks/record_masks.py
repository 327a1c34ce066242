"""Record vectors of a real run, for ``benchmarks/codec.py --masks``.

Trains the digits task with FLASC in one process (a quarter of the weights down, whole
updates up) and records, after some rounds, the server vector (downloads are selected
from it), one client's whole update (its upload would be selected from it), and how far
the round moved the server vector (what a download of differences would be selected
from).

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/record_masks.py masks.npz

With the settings of a file in conf/, here 20 Newsgroups; FLASC_DATA names its folder:

    PYTHONPATH=. python benchmarks/record_masks.py news.npz --rounds 5 50 \
        --profile small-20newsgroups-350.toml --clients 350
"""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import client_app
from flasc_flwr import Flasc
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of, payload_of


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
    parser.add_argument("--profile", default="", help="file in conf/")
    given = parser.parse_args()
    settings: dict[str, Any] = {}
    if given.profile:
        conf = Path(__file__).parent.parent / "conf" / given.profile
        settings = tomllib.loads(conf.read_text())
    vectors = recorded(given.rounds, given.clients, settings)
    np.savez_compressed(given.path, **vectors)


def recorded(
    rounds: list[int], clients: int, settings: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Return the arrays of the vectors after these rounds, ``round what/name``."""
    exact = {"upload-density": 1.0, "value-format": "float32", "evaluate-every": 1000}
    config = RunConfig.parse({**settings, **exact})
    grid = LastUpdate(client_app.app, clients, run_config=config.to_dict())
    arrays: dict[str, np.ndarray] = {}
    before = np.zeros(0, np.float32)

    def record(checkpoint):
        nonlocal before
        layout, weights = checkpoint.state.layout, checkpoint.state.vector
        moved = weights - before if len(before) else np.zeros_like(weights)
        before = weights.copy()
        if checkpoint.round not in rounds:
            return
        update = decode(grid.payload, size=layout.size).densify()
        vectors = {"weights": weights, "update": update, "difference": moved}
        for what, vector in vectors.items():
            for name, array in layout.unflatten(vector).items():
                arrays[f"{checkpoint.round} {what}/{name}"] = array

    strategy = Flasc(
        download_density=config.download_density,
        upload_density=config.upload_density,
        values=config.value_format,
        fraction_train=config.sampling.fraction_train,
        server_optimizer=config.make_server_optimizer(),
        on_checkpoint=record,
    )
    initial = array_record(read_adapter(load_task(config).model))
    # The first round's difference is from the adapter that the run begins with.
    first = Layout.of(arrays_of(initial))
    before = first.flatten(arrays_of(initial))
    strategy.start(grid, initial, max(rounds))
    return arrays


if __name__ == "__main__":
    main()
