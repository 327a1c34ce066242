"""Whole simulations for benchmarks/cost_of_size.py: the same models, on Ray."""

import json
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import tomli_w

from tests.end_to_end.memory import Memory
from tests.end_to_end.processes import Flower

HERE = Path(__file__).parent
APP = HERE / "size_app"
_KEYS = ("parameters", "pattern", "device", "density", "values", "optimizer", "clients")


def simulate(about: dict[str, Any]) -> dict[str, Any]:
    """Run a simulation; return medians over its rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        config = {key: about[key] for key in _KEYS}
        config |= {"rounds": about["rounds"] + 1, "rows": str(rows)}
        app = _app(Path(scratch) / "app", config)
        flower = Flower(Path(scratch) / "flwr")
        path = f"{HERE}:{HERE.parent}"
        flower.env |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        actors = about["actors"]
        gpus = 0.0 if about["device"] == "cpu" else 1.0 / actors
        federation = (
            f"num-supernodes={about['clients']} init-args-num-cpus={actors} "
            f"client-resources-num-cpus=1 client-resources-num-gpus={gpus}"
        )
        if gpus:
            federation += " init-args-num-gpus=1"

        def done() -> int:
            return len(rows.read_text().splitlines()) if rows.exists() else 0

        options = ("--simulation", "--disable-runtime-dependency-installation")
        with (
            flower.superlink(*options) as connection,
            Memory(flower.superlink_pid) as memory,
            _Processor(flower.superlink_pid, done) as processor,
        ):
            said = flower.run(
                *("flwr", "run", str(app), connection, "--stream"),
                *("--federation-config", federation),
                timeout=3600,
            )
        found = [json.loads(row) for row in rows.open()] if rows.exists() else []
    if len(found) != about["rounds"] + 1:
        raise RuntimeError(f"the run went wrong:\n{said}")
    return {
        **{key: about[key] for key in (*_KEYS, "actors")},
        "seconds": [row["seconds"] for row in found[1:]],
        "round_seconds": median(row["seconds"] for row in found[1:]),
        "round_cpu": processor.per_round(1, about["rounds"]),
        "megabytes": memory.peak,
    }


def _app(folder: Path, config: dict[str, Any]) -> Path:
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
    components = {"serverapp": "server_app:app", "clientapp": "client_app:app"}
    flwr = {"publisher": "benchmark", "components": components, "config": config}
    project = {"name": "size-app", "version": "1.0.0", "license": "Apache-2.0"}
    about = {"project": project, "tool": {"flwr": {"app": flwr}}}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(about))
    return folder


class _Processor:
    """The seconds of the processor that processes took, at the end of each round."""

    def __init__(self, pid: int, rounds_done: Any) -> None:
        self._pid = pid
        self._rounds_done = rounds_done
        self._taken: dict[int, float] = {}
        self._by_process: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Processor":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def per_round(self, first: int, rounds: int) -> float:
        """Return the seconds of each round between two of them, on average.

        Rounds that ended between two looks are not known by themselves.
        """
        known = [n for n in sorted(self._taken) if first <= n <= first + rounds]
        if len(known) < 2:
            return nan
        taken = self._taken[known[-1]] - self._taken[known[0]]
        return taken / (known[-1] - known[0])

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            done = self._rounds_done()
            with suppress(psutil.Error):
                parent = psutil.Process(self._pid)
                for one in (parent, *parent.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        self._by_process[one.pid] = times.user + times.system
            self._taken.setdefault(done, sum(self._by_process.values()))


if os.name != "posix":
    raise SystemExit("this benchmark needs a POSIX system")
