"""The client's side of a round, in a process of its own.

Training is left out: a client adds a small random update to its adapter.
"""

from __future__ import annotations

import argparse
import gc
from multiprocessing.connection import Connection

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from size_model import adapter
from size_stopwatch import CLOCKS, Laps, forget_peak, peak, resident, wrap

from flasc_flwr import flasc_mod
from flasc_flwr.app.training import lora
from flasc_flwr.flower import wire
from flasc_flwr.flower.compat import (
    SUPERLINK_NODE_ID,
    TaskIdentity,
    get_all_nested_objects,
    inflate_object_from_contents,
    no_object_id_recompute,
    set_metadata,
)
from flasc_flwr.flower.state.phases import Stopwatch
from flasc_flwr.flower.wire import array_record

_SHIFTS = 1 << 16

# As the app does it; versions before this benchmark had copies only.
read = getattr(wire, "views_of", wire.arrays_of)
views = getattr(lora, "adapter_views", lora.read_adapter)

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
"""What is timed at the client, and as which phase."""


class Client:
    """Answers messages: one client's app, with a model that it keeps."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.watch = Stopwatch(CLOCKS[options.clock])
        for place, phase in CLIENT.items():
            wrap(self.watch, place, phase)
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
    laps = Laps(watch)
    on_gpu = options.device != "cpu"
    while sent := pipe.recv():
        node, key, *content = sent
        gc.collect()
        forget_peak()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        laps.take()
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
        pipe.send((data, laps.take(), peak() - base, gpu))
