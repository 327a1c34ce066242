"""The two sides of a round, each a process: this project's, and FlowerTune's pattern.

Here is the server's side; the client's is in `size_client`, the model in `size_model`.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from size_client import parsed, read, serialized, serve
from size_model import adapter
from size_stopwatch import CLOCKS, Laps, forget_peak, peak, resident, wrap

from flasc_flwr import Flasc
from flasc_flwr.app.training import lora
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.flower.compat import no_object_id_recompute, set_metadata
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint_files import Checkpoints
from flasc_flwr.flower.state.phases import Stopwatch
from flasc_flwr.flower.wire import array_record

SERVER = {
    "flasc_flwr.core.methods.scores:Scoring.largest": "select",
    "flasc_flwr.core.fitting:encode": "encode",
    "flasc_flwr.flower.state.ledger:message_bytes": "count bytes",
    "flasc_flwr.core.received:decode": "decode",
    "flasc_flwr.flower.server.inbox:decode": "decode",
    "flasc_flwr.flower.server.inbox:Inbox.take": "check",
    "flasc_flwr.core.aggregation.average:Average.add": "add",
    "flasc_flwr.core.aggregation.average:Average.result": "add",
    "flasc_flwr.flower.run:Run.step": "step",
    "flasc_flwr.flower.run:evaluate_received": "evaluate",
    "flasc_flwr.flower.state.checkpoint_files:write": "checkpoint",
    "flwr.serverapp.strategy:FedAvg.aggregate_train": "add",
}
"""What is timed at the server, and as which phase."""


class PipeGrid(LocalGrid):
    """Nodes whose messages one other process answers, one after the other."""

    def __init__(self, pipe: Connection, watch: Stopwatch, nodes: int) -> None:
        super().__init__(lambda message, context: message, nodes)
        self._pipe = pipe
        self._watch = watch
        self.bytes = {"down": 0, "up": 0}
        self.clients: list[tuple[dict[str, float], float, float]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        messages = list(messages)
        sent = []
        with self._watch.of("serialize"), no_object_id_recompute():
            for message in messages:
                set_metadata(message, "message_id", str(uuid4()))
                ids.append(message.metadata.message_id)
                sent.append((message, serialized(self._watch, message)))
        for message, content in sent:
            with self._watch.of("clients"):
                about = message.metadata
                self._pipe.send((about.dst_node_id, about.message_id, *content))
                data, *taken = self._pipe.recv()
            if len(content[1]) > 4:  # not an introduction
                self.clients.append(tuple(taken))
                self.bytes["down"] += sum(map(len, content[1].values()))
                self.bytes["up"] += sum(map(len, data[1].values()))
            self._encoded(message, data)
        return ids

    def _encoded(self, message: Message, data: tuple[str, dict[str, bytes]]) -> None:
        self._replies[message.metadata.message_id] = data  # type: ignore[assignment]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for key in message_ids:
            if key in self._replies:
                data = self._replies.pop(key)
                reply = parsed(self._watch, data)  # type: ignore[arg-type]
                set_metadata(reply, "message_id", key)
                yield reply


def run_server(options: argparse.Namespace) -> dict[str, Any]:
    """Be the server's process: run the rounds; return medians over them."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    context = get_context("fork")
    pipe, other = context.Pipe()
    client = context.Process(target=serve, args=(options, other), daemon=True)
    client.start()
    other.close()  # so that a client that fails ends the server, too
    watch = Stopwatch(CLOCKS[options.clock])
    for place, phase in SERVER.items():
        wrap(watch, place, phase)
    model = adapter(options.parameters, options.device)
    grid = PipeGrid(pipe, watch, options.clients)
    laps = Laps(watch)
    rounds: list[dict[str, Any]] = []
    base = 0.0

    def finished(current: int) -> None:
        """Note what the round that ends here took; the first does not count."""
        seconds = laps.take()
        seconds.pop("clients", None)
        if current > 1:
            rounds.append(
                {"server": seconds, "peak": peak(), "clients": list(grid.clients)}
            )
        grid.clients.clear()
        if current < options.rounds + 1:
            grid.bytes = dict.fromkeys(grid.bytes, 0)
        gc.collect()
        forget_peak()
        laps.take()

    with tempfile.TemporaryDirectory() as folder:
        start = flasc if options.pattern == "flasc" else flowertune
        base = resident()
        with watch.of("other"):
            start(options, model, grid, watch, Path(folder), finished)
    pipe.send(None)
    client.join()
    return summed(options, rounds, base, grid)


def flasc(options, model, grid, watch, folder, finished):
    """Run this project's rounds."""
    write = Checkpoints(folder, every=1)

    def closed(checkpoint):
        write(checkpoint)
        finished(checkpoint.round)

    def evaluate(current, arrays):
        with watch.of("load"):
            lora.write_tensors(model, read(arrays))
        return MetricRecord({"loss": 1.0})

    strategy = Flasc(
        method="flasc",
        download_density=options.density,
        upload_density=options.density,
        values=options.values,
        weighting="examples",
        server_optimizer=SERVER_OPTIMIZERS[options.optimizer](),
        fraction_train=1.0,
        on_checkpoint=closed,
    )
    # As the app does, which keeps no reference to the first arrays either.
    strategy.start(
        grid,
        array_record(lora.read_adapter(model)),
        num_rounds=options.rounds + 1,
        evaluate_fn=evaluate,
    )


def flowertune(options, model, grid, watch, folder, finished):
    """Run rounds of the pattern of Flower's LLM examples."""

    def evaluate(current, arrays):
        with watch.of("load"):
            set_peft_model_state_dict(model, arrays.to_torch_state_dict())
        with watch.of("checkpoint"):
            model.save_pretrained(folder / str(current % 2))
        finished(current)
        return MetricRecord({"loss": 1.0})

    class Quick(FedAvg):
        def configure_evaluate(self, *arguments):
            return []

    strategy = Quick(fraction_train=1.0)
    initial = ArrayRecord(get_peft_model_state_dict(model))
    strategy.start(grid, initial, num_rounds=options.rounds + 1, evaluate_fn=evaluate)


def summed(options, rounds, base, grid) -> dict[str, Any]:
    """Return medians over the rounds, of one client and of the server."""

    def medians(rows: list[dict[str, float]]) -> dict[str, float]:
        phases = {phase for row in rows for phase in row}
        return {p: median(row.get(p, 0.0) for row in rows) for p in sorted(phases)}

    clients = [one for row in rounds for one in row["clients"]]
    server = medians([row["server"] for row in rounds])
    client = medians([seconds for seconds, _, _ in clients])
    client.pop("training", None)
    return {
        "parameters": options.parameters,
        "pattern": options.pattern,
        "device": options.device,
        "clients": options.clients,
        "density": options.density,
        "values": options.values,
        "optimizer": options.optimizer,
        "clock": options.clock,
        "server_seconds": server,
        "client_seconds": client,
        "round_seconds": sum(server.values()) + options.clients * sum(client.values()),
        "server_mb": max(row["peak"] for row in rounds) - base,
        "client_mb": max(grown for _, grown, _ in clients),
        "client_gpu_mb": max(gpu for *_, gpu in clients),
        "bytes_down": grid.bytes["down"] // options.clients,
        "bytes_up": grid.bytes["up"] // options.clients,
    }
