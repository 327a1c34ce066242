"""Small apps and arrays that the tests of the Flower edge share."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from flasc_flwr import flasc_mod
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of

Arrays = Mapping[str, NDArray[Any]]
Trainer = Callable[[dict[str, NDArray[Any]], int, int], Arrays]


def adapter(seed: int = 0, rank: int = 4) -> dict[str, NDArray[np.float32]]:
    """Return a small adapter at its initial state: unequal in and out, B zero."""
    rng = np.random.default_rng(seed)
    return {
        "layer.lora_A.weight": rng.standard_normal((rank, 11)).astype(np.float32),
        "layer.lora_B.weight": np.zeros((7, rank), np.float32),
        "classifier.weight": rng.standard_normal((3, 7)).astype(np.float32),
    }


def nudge(arrays: dict[str, NDArray[Any]], client: int, server_round: int) -> Arrays:
    """Stand in for training: a step of seeded noise that depends on the weights."""
    rng = np.random.default_rng([client, server_round])
    return {
        name: (0.9 * value + 0.1 * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in arrays.items()
    }


def client_app(
    trainer: Trainer = nudge, mods: list[Any] | None = None, examples: int = 5
) -> ClientApp:
    """Return an app whose train function knows nothing of sparsity."""
    app = ClientApp(mods=[flasc_mod] if mods is None else mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        current = int(message.content["config"]["server-round"])
        trained = trainer(arrays_of(message.content["arrays"]), client, current)
        metrics = {"num-examples": examples * (client + 1), "loss": float(client)}
        content = {"arrays": array_record(trained), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        total = sum(
            float(v.sum()) for v in arrays_of(message.content["arrays"]).values()
        )
        metrics = {"num-examples": 1, "total": total}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    return app


class RecordingGrid(LocalGrid):
    """Keeps what travels."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.down, self.up = [], []

    def push_messages(self, messages):
        messages = list(messages)
        self.down += messages
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        self.up += replies
        return replies
