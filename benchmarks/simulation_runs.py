"""Three ways to run the same client trainings, and what each took."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tests.end_to_end.memory import Memory
from tests.end_to_end.processes import Flower

ROOT = Path(__file__).parents[1]
EXAMPLE = Path(__file__).parent / "llm_example"
STEPS = Path(__file__).parent / "timed_steps.py"
LOOP = Path(__file__).parent / "plain_loop.py"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run: `cohort` of `clients` train in each of `rounds` that are timed."""

    settings: dict[str, Any]
    clients: int
    cohort: int
    rounds: int

    def config(self, output: Path | str) -> dict[str, Any]:
        # Round 1 loads models and data: it is run, and not counted.
        return self.settings | {
            "num-server-rounds": self.rounds + 1,
            "evaluate-every": self.rounds + 1,
            "evaluate-examples": 16,
            "fraction-train": self.cohort / self.clients,
            "min-nodes": self.cohort,
            "partitioner": "flasc-dirichlet",
            "round-timeout": 3600,
            "output-dir": str(output),
        }


@dataclass(frozen=True)
class Taken:
    """What a run took.

    Attributes
    ----------
    seconds : list[float]
        Of each timed round.
    megabytes : float
        The most memory that the processes had.
    computing : float, optional
        The fraction of the timed rounds that a client was computing, by its own clock.
    """

    seconds: list[float]
    megabytes: float
    computing: float | None = None


def in_simulation(case: Case, app: Path, actors: int) -> Taken:
    """Run an app with Flower, `actors` clients at a time, each on one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "runs"
        settings = Path(scratch) / "config.toml"
        settings.write_text(tomli_w.dumps(case.config(output)))
        flower = Flower(Path(scratch) / "flwr")
        flower.env |= {"PYTHONPATH": str(app), "OMP_NUM_THREADS": "1"}
        # Ray's workers step back for other work (niceness 15): the loop does not.
        flower.env["RAY_worker_niceness"] = "0"
        federation = (
            f"num-supernodes={case.clients} init-args-num-cpus={actors} "
            "client-resources-num-cpus=1 client-resources-num-gpus=0.0"
        )
        options = ("--simulation", "--disable-runtime-dependency-installation")
        with (
            flower.superlink(*options) as connection,
            Memory(flower.superlink_pid) as memory,
        ):
            said = flower.run(
                *("flwr", "run", str(app), connection, "--stream"),
                *("--run-config", str(settings)),
                *("--federation-config", federation),
                timeout=3600,
            )
        rows = [json.loads(r) for f in output.glob("*/history.jsonl") for r in f.open()]
        # Of each client that it receives, and that it trains. Round 1 does not count.
        noted = [json.loads(r) for f in output.glob("steps.jsonl") for r in f.open()]
        steps = noted[2 * case.cohort :]
    timed = [row for row in rows if row["round"] > 1]
    if len(timed) != case.rounds or any(r["replies"] != case.cohort for r in timed):
        raise RuntimeError(f"the run went wrong:\n{said}")
    seconds = [row["seconds"] for row in timed]
    return Taken(seconds, memory.peak, sum(steps) / sum(seconds) / actors or None)


@contextmanager
def timed_app() -> Iterator[Path]:
    """Make a copy of this app whose clients note how long they compute."""
    with _copy(ROOT / "client_app.py", ROOT / "server_app.py", STEPS) as app:
        with (app / "client_app.py").open("a") as file:
            file.write(f"\nimport {STEPS.stem}\n")
        yield app


@contextmanager
def example_app() -> Iterator[Path]:
    """Make a copy of this app with the two parts of Flower's examples in it."""
    with _copy(*EXAMPLE.glob("*.py")) as app:
        yield app


@contextmanager
def _copy(*files: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        app = Path(scratch) / "app"
        shutil.copytree(
            ROOT / "flasc_flwr",
            app / "flasc_flwr",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for file in (ROOT / "pyproject.toml", ROOT / "LICENSE", *files):
            shutil.copy(file, app)
        yield app


def in_a_loop(case: Case, processes: int) -> Taken:
    """Run the same trainings one after the other, without Flower and messages.

    With more processes than one, each trains its share of the clients, all at once.
    """
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / "config.json"
        settings.write_text(json.dumps(case.config(scratch)))
        command = (sys.executable, str(LOOP), str(settings), str(case.clients))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        loops = [
            subprocess.Popen(
                (*command, str(case.cohort // processes)),
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        with Memory(*(loop.pid for loop in loops)) as memory:
            said = [loop.communicate()[0] for loop in loops]
    seconds = [json.loads(text) for text in said]
    return Taken([max(several) for several in zip(*seconds, strict=True)], memory.peak)
