"""What a transport saves the plug-in example: accuracy and bytes by setting.

Runs examples/plug-in's client, a CNN with BatchNorm, over a LocalGrid with ten clients,
under FedAvg and FedAdam. Accuracy is of the server's arrays on 400 images, the mean of
the last three rounds; bytes are of whole messages, both ways. Each run is a line of
JSON.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/plug_in.py --seed 0 >> rows.jsonl
    PYTHONPATH=. python benchmarks/plug_in.py --table rows.jsonl
"""

import argparse
import json
import logging
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
WAYS: dict[str, dict[str, Any] | None] = {
    "as it was": None,
    "defaults": {},
    "1/2 down, 1/4 up": {"upload_density": 1 / 4},
    "1/2 down, 1/16 up": {"upload_density": 1 / 16},
    "1/16 each way": {"download_density": 1 / 16, "upload_density": 1 / 16},
    "whole down, 1/2 up": {"error_feedback": "up"},
    "whole down, 1/2 up in int8, no memory": {"error_feedback": "none"},
    "masks 1/4 down, 1/16 up, bfloat16": {
        "error_feedback": "none",
        "download_density": 1 / 4,
        "upload_density": 1 / 16,
        "values": "bfloat16",
        "quota": "none",
    },
}


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Add a number to every seed that the example gives to torch; 0 changes nothing."""
    random.seed(seed)
    np.random.seed(seed)
    given = torch.manual_seed
    torch.manual_seed = lambda own: given(own + 100_003 * seed)
    try:
        yield
    finally:
        torch.manual_seed = given


def run(inner: str, way: str, seed: int, rounds: int) -> dict[str, Any]:
    """Return one run's row."""
    strategy, settings = INNER[inner](), WAYS[way]
    if settings is not None:
        strategy = SparseTransport(strategy, **settings)
    grid = CountingGrid(example.app, 10)
    with seeded(seed):
        result = strategy.start(
            grid,
            example.initial_arrays(),
            rounds,
            evaluate_fn=example.central_evaluate,
        )
    metrics = result.evaluate_metrics_serverapp.values()
    accuracy = [round(100 * float(m["accuracy"]), 2) for m in metrics]
    return {
        "strategy": inner,
        "way": way,
        "seed": seed,
        "rounds": rounds,
        "accuracy": accuracy,
        "bytes": grid.spent,
    }


def table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of runs: accuracies by seed, mean bytes."""
    yield "| strategy | messages | accuracy, seed 0 / 1 / 2 | MB | times less |"
    yield "|---|---|---|---|---|"
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["strategy"], row["way"]][row["seed"]] = row
    for (inner, way), by_seed in groups.items():
        shown = " / ".join(
            f"{np.mean(by_seed[seed]['accuracy'][-3:]):.1f}" for seed in sorted(by_seed)
        )
        spent = np.mean([row["bytes"] for row in by_seed.values()])
        dense = [row["bytes"] for row in groups[inner, "as it was"].values()]
        yield (
            f"| {inner} | {way} | {shown} % | {spent / 1e6:.2f} "
            f"| {np.mean(dense) / spent:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", choices=INNER)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table:
        rows = map(json.loads, given.table.read_text().splitlines())
        print("\n".join(table(rows)))
        return
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for inner in [given.strategy] if given.strategy else INNER:
        for way in [given.way] if given.way else WAYS:
            print(json.dumps(run(inner, way, given.seed, given.rounds)), flush=True)


if __name__ == "__main__":
    main()
