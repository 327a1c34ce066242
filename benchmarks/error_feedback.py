"""Error feedback on the digits: server optimizers, densities, decay, participation.

The task, its partitions, its training and the error feedback are the library's; the
round is a plain loop in this process, without Flower, so that one core runs many. Bytes
are those of payloads, catch-up payloads and whole references included; Flower's part of
a message is added by docs/error-feedback.md from runs of the app.

    python benchmarks/error_feedback.py OUT.jsonl SPECS.json

SPECS.json is a list of runs, each a dictionary of `Spec`'s fields. A run whose row is
in OUT.jsonl is not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.task import Task, load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.feedback.memory import DeviceMemory, Fading, Receipts
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Role, Vector
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.optimizers import (
    SERVER_OPTIMIZERS,
    Decaying,
    OptimizerState,
    ServerOptimizer,
)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One run.

    Attributes
    ----------
    feedback : str
        ``dense`` (everything travels), ``none`` (FLASC), ``up`` or ``both``.
    down, up : float
        Densities.
    values_down, values_up : str
        Value formats.
    optimizer : str
        Name of the server optimizer.
    settings : dict[str, float]
        Its settings.
    rate_decay : float
        Factor on its learning rate after each step.
    decay : float
        Factor on a residual for each round since it was trained.
    score, quota : str
        What entries are ranked by, and where they compete.
    first : float
        Density of the first download.
    warm : int
        Rounds that begin with another density each way, `warm_density`.
    init : str
        ``sent`` or ``shared-seed``.
    clients, cohort, rounds, seed : int
        The simulation.
    run : dict[str, Any]
        Further keys of the run config.
    """

    feedback: str
    down: float = 1.0
    up: float = 1.0
    values_down: str = "int8"
    values_up: str = "int8"
    optimizer: str = "fedavgm"
    settings: dict[str, float] = field(default_factory=dict)
    rate_decay: float = 1.0
    decay: float = 1.0
    score: str = "magnitude"
    quota: str = "none"
    first: float = 1.0
    warm: int = 0
    warm_density: float = 1.0
    init: str = "sent"
    clients: int = 10
    cohort: int = 10
    rounds: int = 40
    seed: int = 0
    run: dict[str, Any] = field(default_factory=dict)


class Server:
    """The server vector, and what devices receive of it."""

    def __init__(self, spec: Spec, task: Task) -> None:
        self.spec = spec
        initial = read_adapter(task.model)
        self.layout = Layout.of(initial)
        self.vector = self.layout.flatten(initial)
        self.base = np.zeros(self.layout.size, np.float32)
        if spec.init == "shared-seed":
            self.base = seeded_factors(self.layout, spec.seed)
            for tensor, place in self.layout.slices():
                if tensor.role == Role.A:
                    self.vector[place] = self.base[place]
        self.optimizer = optimizer_of(spec)
        self.state = self.optimizer.init(self.layout.size)
        self.stream = Stream.begin(self.layout)
        self.held: dict[int, bytes | None] = {}
        self.receipts = Receipts()
        self.payload = b""
        self.start = self.base

    def pick(self, vector: Vector, density: float, values: str) -> bytes:
        """Return the payload that keeps a fraction of a vector."""
        scoring = Scoring(score=self.spec.score, quota=self.spec.quota)
        kept = scoring.largest(self.layout, vector, density)
        return encode(kept, values, layout=self.layout)

    def encode(self, current: int) -> None:
        """Make this round's download, once for all devices."""
        spec, target = self.spec, self.vector - self.base
        density = spec.warm_density if current <= spec.warm else spec.down
        density = spec.first if current == 1 else density
        if spec.feedback == "both":
            self.stream.advance(
                target, lambda v: self.pick(v, density, spec.values_down)
            )
            self.start = self.base + self.stream.reference.vector
            return
        values = spec.values_down
        self.payload = self.pick(
            target, 1.0 if spec.feedback == "dense" else density, values
        )
        self.start = (
            self.base + decode(self.payload, self.layout.size).densify()
        ).astype(np.float32)

    def download(self, client: int, memory: DeviceMemory) -> tuple[Vector, int]:
        """Return what a device starts from, and the bytes that it is sent."""
        if self.spec.feedback != "both":
            return self.start, len(self.payload)
        way = self.stream.catch_up(self.held.get(client))
        memory.hold(way.applied(memory.reference))
        self.held[client] = self.stream.reference.version
        assert memory.reference is not None
        assert memory.reference.digest == self.stream.reference.digest
        return self.base + memory.reference.vector, way.size

    def step(self, mean: Vector) -> None:
        """Step along the mean update."""
        self.vector, self.state = self.optimizer.step(self.vector, -mean, self.state)


@dataclass(frozen=True, kw_only=True)
class Nesterov:
    """Nesterov's momentum: ``v = beta v + D`` and ``x + lr (D + beta v)``."""

    learning_rate: float = 1.0
    momentum: float = 0.9

    def init(self, size: int) -> OptimizerState:
        """Return a velocity of zero."""
        return OptimizerState(0, {"v": np.zeros(size, np.float32)})

    def step(
        self, vector: Vector, gradient: Vector, state: OptimizerState
    ) -> tuple[Vector, OptimizerState]:
        """Return one step."""
        beta = np.float32(self.momentum)
        v = beta * state.moments["v"] - gradient
        stepped = vector + np.float32(self.learning_rate) * (beta * v - gradient)
        return stepped, OptimizerState(state.step + 1, {"v": v})


OPTIMIZERS = {**SERVER_OPTIMIZERS, "nesterov": Nesterov}


def optimizer_of(spec: Spec) -> ServerOptimizer:
    """Return a run's server optimizer."""
    made = OPTIMIZERS[spec.optimizer](**spec.settings)
    return Decaying(optimizer=made, decay=spec.rate_decay)


def run(spec: Spec) -> dict[str, Any]:
    """Return a run's row: its accuracy by round, and its bytes."""
    config = RunConfig.parse(
        {"method": "dense", "num-server-rounds": spec.rounds, "seed": spec.seed}
        | spec.run
    )
    load_task.cache_clear()
    task = load_task(config)
    server = Server(spec, task)
    size = server.layout.size
    memories = {k: DeviceMemory.empty(server.layout) for k in range(spec.clients)}
    fading = Fading(decay=spec.decay)
    curve, began = [], time.perf_counter()
    down = up = 0
    server.encode(1)
    for current in range(1, spec.rounds + 1):
        draw = np.random.default_rng([spec.seed, current])
        cohort = sorted(draw.permutation(spec.clients)[: spec.cohort].tolist())
        mean = np.zeros(size, np.float32)
        for client in cohort:
            memory = memories[client]
            start, sent = server.download(client, memory)
            down += sent
            task.load_adapter(server.layout.unflatten(start))
            seed = np.random.SeedSequence([spec.seed, current, client])
            task.train(
                task.data.partition(client, spec.clients),
                seed=int(seed.generate_state(1)[0]),
            )
            update = server.layout.flatten(read_adapter(task.model)) - start
            if spec.feedback in ("up", "both"):
                memory.open_round(current, server.receipts.last.get(str(client)))
                update = memory.owed(update, current, fading)
            density = spec.warm_density if current <= spec.warm else spec.up
            density = 1.0 if spec.feedback == "dense" else density
            payload = server.pick(update, density, spec.values_up)
            if spec.feedback in ("up", "both"):
                memory.sent(current, payload)
                server.receipts.take(str(client), current, payload)
            up += len(payload)
            reply = decode(payload, size)
            mean[reply.positions] += reply.values / np.float32(spec.cohort)
        server.step(mean)
        server.encode(current + 1)
        if current % 5 and current <= spec.rounds - 5:
            continue
        accuracy = {}
        for name, vector in (("held", server.start), ("server", server.vector)):
            task.load_adapter(server.layout.unflatten(vector))
            accuracy[name] = task.evaluate(task.data.test).accuracy
        gap = float(np.linalg.norm(server.vector - server.start))
        curve.append(
            [current, accuracy["held"], accuracy["server"], down, up, round(gap, 4)]
        )
    last = curve[-5:]
    return {
        "spec": asdict(spec),
        "accuracy": curve[-1][1],
        "accuracy_last_5": float(np.mean([row[1] for row in last])),
        "server_accuracy": curve[-1][2],
        "payload_bytes_down": down,
        "payload_bytes_up": up,
        "size": size,
        "seconds": round(time.perf_counter() - began, 1),
        "curve": curve,
    }


def main() -> None:
    """Run what is not yet in the file of rows."""
    out, specs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    rows = [json.loads(line) for line in out.open()] if out.exists() else []
    done = [asdict(Spec(**row["spec"])) for row in rows]
    for each in specs:
        spec = Spec(**each)
        if asdict(spec) in done:
            continue
        row = run(spec)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        total = row["payload_bytes_down"] + row["payload_bytes_up"]
        print(
            f"{each} accuracy {row['accuracy']:.4f} last5 {row['accuracy_last_5']:.4f} "
            f"server {row['server_accuracy']:.4f} MB {total / 1e6:.3f} "
            f"s {row['seconds']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
