"""What a transport saves the plug-in example: accuracy and bytes by setting.

Runs examples/plug-in's client, a CNN with BatchNorm, over a LocalGrid with ten clients,
under FedAvg and FedAdam. Accuracy is of the server's arrays on 400 images, the mean of
the last three rounds; bytes are of whole messages, both ways.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/plug_in.py [--rounds 30]
"""

import argparse
import logging
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy

from flasc_flwr import SparseTransport
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import message_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "plug-in"))
import cnn_client as example  # noqa: E402

INNER: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(fraction_evaluate=0.0),
    "FedAdam, eta 0.02": lambda: FedAdam(fraction_evaluate=0.0, eta=0.02),
}
DENSITIES = [None, (1, 1), (1 / 4, 1 / 4), (1 / 4, 1 / 16), (1, 1 / 16)]


class CountingGrid(LocalGrid):
    """Counts the bytes of all messages."""

    spent = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.spent += sum(message_bytes(messages))
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.spent += sum(message_bytes(replies))
        return replies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print("| strategy | download | upload | accuracy | MB | times less |")
    print("|---|---|---|---|---|---|")
    for name, make in INNER.items():
        before = 0
        for densities in DENSITIES:
            random.seed(0)
            np.random.seed(0)
            strategy, words = make(), "as it was | "
            if densities:
                down, up = densities
                words = f"{down:g} | {up:g}"
                strategy = SparseTransport(
                    strategy, download_density=down, upload_density=up
                )
            grid = CountingGrid(example.app, 10)
            result = strategy.start(
                grid,
                example.initial_arrays(),
                rounds,
                evaluate_fn=example.central_evaluate,
            )
            metrics = list(result.evaluate_metrics_serverapp.values())
            accuracy = 100 * np.mean([float(m["accuracy"]) for m in metrics[-3:]])
            before = before or grid.spent
            print(
                f"| {name} | {words} | {accuracy:.1f} % | {grid.spent / 1e6:.2f} "
                f"| {before / grid.spent:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
