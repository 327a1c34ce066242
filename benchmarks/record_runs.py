"""Record what runs send and report, to compare two versions of this project.

``PYTHONPATH=. python benchmarks/record_runs.py before.json`` runs several methods on
the digits task in one process, and `SparseTransport` around two strategies of Flower's.
For each it writes a digest of all payloads, a digest of the final arrays, and the
history without its seconds. Two versions that send the same bytes and give the same
results write equal files on the same machine: ``cmp before.json after.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.flower.local_grid import LocalGrid

APP = Path(__file__).parents[1]
RUNS: dict[str, dict[str, Any]] = {
    "flasc": {},
    "flasc, int4, shared seed": {
        "upload-density": "1/16",
        "value-format": "int4",
        "init": "shared-seed",
        "server-learning-rate-decay": 0.99,
        "fraction-evaluate": 0.3,
    },
    "dense": {"method": "dense"},
    "replication": {"method": "replication"},
    "flora": {"method": "flora"},
    "flexlora": {"method": "flexlora"},
    "fedex-lora": {"method": "fedex-lora"},
    "rolora": {"method": "rolora"},
    "hetlora": {"method": "hetlora"},
    "flasc-shared-mask": {"method": "flasc-shared-mask"},
    "sparse-adapter": {"method": "sparse-adapter"},
    "private": {
        "dp-clip-norm": 0.5,
        "dp-noise-multiplier": 0.5,
        "dp-population": 6,
        "dp-noise-seed": 3,
    },
}


def main() -> None:
    """Record every run into one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    given = parser.parse_args()
    record = {name: record_run(RUNS[name], given.rounds) for name in given.only}
    for strategy in (FedAvg, FedAdam):
        name = f"SparseTransport({strategy.__name__})"
        record[name] = record_transport(SparseTransport(strategy()), given.rounds)
    given.out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def record_run(settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Run the digits task with six clients."""
    with tempfile.TemporaryDirectory() as folder, payloads() as sent:
        fixed = {"num-server-rounds": rounds, "seed": 1, "output-dir": folder}
        run_locally(APP, {**settings, **fixed}, 6)
        (run,) = Path(folder).iterdir()
        lines = (run / "history.jsonl").read_text().splitlines()
        adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    rows = [json.loads(line) for line in lines]
    return {
        "payloads": digest(sent),
        "adapter": digest([adapter]),
        "history": [
            {k: v for k, v in row.items() if not k.startswith("seconds")}
            for row in rows
        ],
    }


def record_transport(strategy: SparseTransport, rounds: int) -> dict[str, Any]:
    """Run a small numpy app with four clients."""
    generator = np.random.default_rng(0)
    arrays = {
        name: Array(generator.standard_normal(shape).astype(np.float32))
        for name, shape in {"w": (40, 30), "b": (30,), "v": (30, 10)}.items()
    }
    random.seed(0)  # Flower's strategies sample from it
    with payloads() as sent:
        grid = LocalGrid(client_app(), 4)
        result = strategy.start(grid, ArrayRecord(arrays), num_rounds=rounds)
    return {
        "payloads": digest(sent),
        "arrays": digest([a.numpy().tobytes() for a in result.arrays.values()]),
        "message bytes": sum(s.message for s in strategy.traffic.sent),
    }


def client_app() -> ClientApp:
    """Return an app that adds noise, drawn from its partition and the round."""
    app = ClientApp(mods=[flasc_mod])

    @app.train()
    def train(message: Message, context: Any) -> Message:
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        generator = np.random.default_rng([client, current])
        trained = ArrayRecord()
        for name, array in message.content["arrays"].items():
            noise = generator.standard_normal(array.shape).astype(np.float32)
            trained[name] = Array(array.numpy() + np.float32(0.1) * noise)
        metrics = MetricRecord({"num-examples": 1 + client})
        content = RecordDict({"arrays": trained, "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Any) -> Message:
        arrays = message.content["arrays"].values()
        size = float(sum(np.abs(array.numpy()).sum() for array in arrays))
        metrics = MetricRecord({"num-examples": 1, "size": size})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


@contextmanager
def payloads() -> Iterator[list[bytes]]:
    """Collect the payload of every Array made in here."""
    collected: list[bytes] = []
    original = Array.__init__

    def spy(self: Array, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if str(self.stype).startswith("flasc"):
            collected.append(self.data)

    Array.__init__ = spy  # type: ignore[method-assign]
    try:
        yield collected
    finally:
        Array.__init__ = original  # type: ignore[method-assign]


def digest(parts: list[bytes]) -> str:
    """Return a digest of the parts, whatever their order."""
    hashes = sorted(hashlib.sha256(part).hexdigest() for part in parts)
    return f"{len(parts)} x {hashlib.sha256(''.join(hashes).encode()).hexdigest()}"


if __name__ == "__main__":
    main()
