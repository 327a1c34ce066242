"""The two sides of a round, each a process: this project's, and FlowerTune's pattern.

Training is left out: a client adds a small random update to its adapter. The backbone
is layers of 4,096 x 4,096 that share one weight, so that adapters of any size, with the
shapes that a language model of 7 billion parameters gives them, fit on a laptop.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import time
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from size_stopwatch import Stopwatch, forget_peak, peak, resident

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.app.training import lora
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.flower import wire
from flasc_flwr.flower.compat import (
    SUPERLINK_NODE_ID,
    TaskIdentity,
    get_all_nested_objects,
    inflate_object_from_contents,
    no_object_id_recompute,
    set_metadata,
)
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint_files import Checkpoints
from flasc_flwr.flower.wire import array_record

HIDDEN, RANK = 4096, 32
_SHIFTS = 1 << 16
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}

# As the app does it; versions before this benchmark had copies only.
read = getattr(wire, "views_of", wire.arrays_of)
views = getattr(lora, "adapter_views", lora.read_adapter)

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

CLIENT = {
    "flasc_flwr.flower.mod:array_record": "to the app",
    "flasc_flwr.core.received:decode": "decode",
    "flasc_flwr.flower.mod:Received.of": "decode",
    "flasc_flwr.flower.mod:Received.arrays": "to the app",
    "flasc_flwr.flower.mod:Received.handed_over": "to the app",
    "flasc_flwr.flower.mod:Received.update": "update",
    "flasc_flwr.flower.mod:arrays_of": "from the app",
    "flasc_flwr.flower.mod:views_of": "from the app",
    "flasc_flwr.flower.mod:encode_update": "update",
    "flasc_flwr.flower.device_update:top_k": "select",
    "flasc_flwr.core.fitting:encode": "encode",
}


class Backbone(torch.nn.Module):
    """Layers that share one weight."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        with torch.device("meta"):
            made = [torch.nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(layers)]
        weight = torch.nn.Parameter(torch.zeros(HIDDEN, HIDDEN), requires_grad=False)
        for layer in made:
            layer.weight = weight
        self.layers = torch.nn.ModuleList(made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def adapter(parameters: int, device: str) -> Any:
    """Return a model with an adapter of about so many parameters."""
    torch.manual_seed(0)
    layers = max(1, round(parameters / (2 * HIDDEN * RANK)))
    lora = LoraConfig(r=RANK, lora_alpha=64, target_modules=r"layers\.\d+")
    return get_peft_model(Backbone(layers), lora).to(device)


class Client:
    """Answers messages: one client's app, with a model that it keeps."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.watch = Stopwatch(CLOCKS[options.clock])
        for place, phase in CLIENT.items():
            self.watch.wrap(place, phase)
        self.device = options.device
        self.model = adapter(options.parameters, options.device)
        lora.read_adapter(self.model)
        longest = max(p.numel() for p in self.model.parameters() if p.requires_grad)
        self._noise = 1e-3 * torch.randn(longest + _SHIFTS, device=options.device)
        self.app = ClientApp(mods=[flasc_mod])
        self.app.train()(self.sparse_round)
        self.plain = ClientApp()
        self.plain.train()(self.plain_round)

    def sparse_round(self, message: Message, context: Context) -> Message:
        with self.watch.of("load"):
            lora.write_tensors(self.model, read(message.content["arrays"]))
        self.train()
        with self.watch.of("read"):
            arrays = array_record(views(self.model))
        return self._reply(message, arrays)

    def plain_round(self, message: Message, context: Context) -> Message:
        with self.watch.of("load"):
            received = message.content["arrays"].to_torch_state_dict()
            set_peft_model_state_dict(self.model, received)
        self.train()
        with self.watch.of("read"):
            arrays = ArrayRecord(get_peft_model_state_dict(self.model))
        return self._reply(message, arrays)

    def train(self) -> None:
        with self.watch.of("training"), torch.no_grad():
            trained = [p for p in self.model.parameters() if p.requires_grad]
            for index, parameter in enumerate(trained):
                # No two tensors may be equal: Flower would send only one of them.
                first = 997 * index % _SHIFTS
                some = self._noise[first : first + parameter.numel()]
                parameter.add_(some.view(parameter.shape))
        if self.device != "cpu":
            torch.cuda.synchronize()

    def _reply(self, message: Message, arrays: ArrayRecord) -> Message:
        metrics = MetricRecord({"num-examples": 100, "loss": 1.0})
        return Message(
            RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message
        )


def parsed(watch: Stopwatch, sent: tuple[str, dict[str, bytes]]) -> Message:
    with watch.of("parse"):
        message = inflate_object_from_contents(*sent)
    assert isinstance(message, Message)
    return message


def serialized(watch: Stopwatch, message: Message) -> tuple[str, dict[str, bytes]]:
    # As Flower's grid: objects are hashed once.
    with watch.of("serialize"), no_object_id_recompute():
        nested = get_all_nested_objects(message)
        return message.object_id, {key: one.deflate() for key, one in nested.items()}


def serve(options: argparse.Namespace, pipe: Connection) -> None:
    """Be the client's process: answer what comes through the pipe."""
    TaskIdentity.task_id = TaskIdentity.run_id = 0
    client = Client(options)
    watch, base = client.watch, resident()
    on_gpu = options.device != "cpu"
    while sent := pipe.recv():
        node, key, *content = sent
        gc.collect()
        forget_peak()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        watch.take()
        message = parsed(watch, tuple(content))  # type: ignore[arg-type]
        del sent, content
        set_metadata(message, "message_id", key)
        TaskIdentity.node_id = node
        context = Context(0, node, {"partition-id": node}, RecordDict(), {})
        app = client.app if options.pattern == "flasc" else client.plain
        with watch.of("other"):
            reply = app(message, context)
        del message
        data = serialized(watch, reply)
        del reply
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        gpu = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else 0.0
        pipe.send((data, watch.take(), peak() - base, gpu))


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
        watch.wrap(place, phase)
    model = adapter(options.parameters, options.device)
    grid = PipeGrid(pipe, watch, options.clients)
    rounds: list[dict[str, Any]] = []
    base = 0.0

    def finished(current: int) -> None:
        """Note what the round that ends here took; the first does not count."""
        seconds = watch.take()
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
        watch.take()

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
