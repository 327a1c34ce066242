"""The process that a SuperNode starts for a message, for benchmarks/floor.py.

Usage: floor_client.py MESSAGE, with the time at which it was started in FLOOR_STARTED.
"""

import importlib
import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from flasc_flwr.flower.state.phases import Stopwatch

LIBRARIES = ("torch", "transformers.modeling_utils", "peft", "datasets")
FLOWER = "flwr.supernode.cli.flwr_clientapp"
TIMED = {
    "tokenizer": ("flasc_flwr.app.tasks.{task}", "load_tokenizer"),
    "weights": ("flasc_flwr.app.tasks.backbones", "load_checkpoint"),
    "probe": ("flasc_flwr.app.tasks.probing", "check_outputs"),
    "adapter": ("flasc_flwr.app.training.adapting", "get_peft_model"),
    "data": ("flasc_flwr.app.tasks.tables", "Tables.local_examples"),
    "step": ("flasc_flwr.app.tasks.task", "train_model"),
}
"""Functions of the ClientApp that are phases of their own."""


class Clock:
    """Seconds of the wall clock and of the CPU by phase, each counted once."""

    def __init__(self) -> None:
        self._watches = Stopwatch(), Stopwatch(time.process_time)

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a function as a phase; phases within it do not count for it."""
        wall, cpu = self._watches
        with wall.of(name), cpu.of(name):
            return function()

    def phases(self) -> dict[str, tuple[float, float]]:
        """Return the seconds of each phase, without those between phases."""
        wall, cpu = (watch.by_phase() for watch in self._watches)
        return {name: (wall[name], cpu[name]) for name in wall if name}


def timed(clock: Clock, task: str) -> None:
    """Let the clock measure the functions of `TIMED`."""
    places = {"text-classification": "text_classification", "digits": "digits"}
    module = places.get(task, "instruction.tuning")
    for phase, (path, name) in TIMED.items():
        owner: Any = importlib.import_module(path.format(task=module))
        *outer, last = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        inner = getattr(owner, last)

        def measured(
            *args: Any, _inner: Any = inner, _phase: str = phase, **kwargs: Any
        ) -> Any:
            return clock.run(_phase, lambda: _inner(*args, **kwargs))

        setattr(owner, last, measured)
        if phase == "probe":
            setattr(
                importlib.import_module(f"flasc_flwr.app.tasks.{module}"),
                last,
                measured,
            )


def client(message_file: Path) -> None:
    """Do what a SuperNode's process does for a message, and print its phases."""
    from_start = time.time() - float(os.environ["FLOOR_STARTED"])
    start = {"start": (from_start, time.process_time())}
    clock = Clock()
    clock.run("flwr", lambda: importlib.import_module(FLOWER))
    with as_the_app():
        for name in LIBRARIES:
            phase = name.split(".")[0]
            clock.run(phase, lambda name=name: importlib.import_module(name))
    record = pickle.loads(message_file.read_bytes())
    task = str(record["run_config"]["task"])
    clock.run("app", lambda: timed(clock, task))
    app = clock.run("app", lambda: importlib.import_module("client_app").app)
    message, context = clock.run("message", lambda: received(record))
    reply = clock.run("rest", lambda: app(message, context))
    clock.run("message", lambda: sent(reply))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6
    phases = start | clock.phases()
    print(json.dumps({"phases": phases, "peak": peak}), flush=True)


def as_the_app() -> AbstractContextManager[None]:
    """Return the context in which the ClientApp imports the libraries."""
    from flasc_flwr.app.optional import without

    return without("bitsandbytes", "scipy", "sklearn")


def received(record: dict[str, Any]) -> Any:
    """Return a recorded message and its context."""
    from flwr.app import Context, RecordDict

    from flasc_flwr.flower.compat import (
        TaskIdentity,
        inflate_object_from_contents,
        set_metadata,
    )

    TaskIdentity.task_id = TaskIdentity.run_id = 0
    TaskIdentity.node_id = 1
    message = inflate_object_from_contents(record["id"], record["contents"])
    set_metadata(message, "message_id", record["id"])
    context = Context(
        run_id=0,
        node_id=1,
        node_config=record["node_config"],
        state=RecordDict(),
        run_config=record["run_config"],
    )
    return message, context


def sent(message: Any) -> None:
    """Serialize a message."""
    from flasc_flwr.flower.compat import get_all_nested_objects

    for item in get_all_nested_objects(message).values():
        item.deflate()


if __name__ == "__main__":
    client(Path(sys.argv[1]))
