"""A private ServerApp, killed with SIGKILL at random moments: epsilon stays honest."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import NamedTuple

import pytest
from dp_accounting import NeighboringRelation, dp_event, rdp

from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.flower.privacy import private
from flasc_flwr.flower.state.checkpoint_files import found, read
from tests.end_to_end.processes import ROOT, history

pytestmark = pytest.mark.slow

CLIENTS, MOMENTS = 30, 20
SETTINGS = {
    "num-server-rounds": 1000,
    "checkpoint-every": 3,
    "evaluate-every": 1000,
    "evaluate-examples": 10,
    "lora-rank": 2,
    "local-epochs": 1,
    "fraction-train": 0.1,
    "dp-clip-norm": 1.0,
    "dp-noise-multiplier": 4.0,
    "dp-population": CLIENTS,
    "dp-sampling": "poisson",
}


def epsilon_of(lines):
    """Compute epsilon of a ledger's lines without this project's code."""
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    kinds = Counter(
        (line["sample_size"] / line["population_size"], line["noise_multiplier"])
        for line in lines
    )
    for (fraction, multiplier), count in kinds.items():
        gaussian = dp_event.GaussianDpEvent(multiplier)
        accountant.compose(dp_event.PoissonSampledDpEvent(fraction, gaussian), count)
    return accountant.get_epsilon(CLIENTS**-1.1)


class Now(NamedTuple):
    releases: int
    checkpoint: int
    file: list


class Runs:
    """One private run, started again and again in its folder."""

    def __init__(self, folder):
        self.output = folder / "runs"
        self.used = folder / "used"  # a byte for each noisy sum that was used
        self.log = folder / "log"

    def settings(self, **more):
        resume = "latest" if any(self.output.glob("*/checkpoints/*")) else ""
        return SETTINGS | {"output-dir": str(self.output), "resume": resume} | more

    def lines(self):
        """Return the ledger's lines; of one that is cut short, the numbers of all."""
        lines = []
        for file in self.output.glob("*/releases.jsonl"):
            for line in file.read_bytes().splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    lines.append(dict(LINE))
        return lines

    def now(self):
        """Return the number of releases, the newest checkpoint, and which history."""
        folders = [path for path in self.output.glob("*/checkpoints") if path.is_dir()]
        rounds = [read(path).round for f in folders for path in found(f)[-1:]]
        files = [path.stat().st_ino for path in self.output.glob("*/history.jsonl")]
        return Now(len(self.lines()), max(rounds, default=0), files)

    def rows(self):
        return [row for path in self.output.glob("*") for row in history(path)]

    def count_used(self):
        return self.used.stat().st_size if self.used.exists() else 0


LINE = {
    "noise_multiplier": SETTINGS["dp-noise-multiplier"],
    "sample_size": int(SETTINGS["fraction-train"] * CLIENTS),
    "population_size": CLIENTS,
}


class Forked:
    """The ServerApp in a copy of this process, which counts what it uses."""

    def __init__(self, runs, **more):
        context = multiprocessing.get_context("fork")
        settings = runs.settings(**more)
        self._process = context.Process(target=self._run, args=(runs, settings))
        self._process.start()
        self.pid = self._process.pid

    def _run(self, runs, settings):
        with runs.log.open("ab") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        used = os.open(runs.used, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        released = private.released

        def counted(*arguments, **numbers):
            noisy = released(*arguments, **numbers)
            os.write(used, b".")
            return noisy

        private.released = counted
        run_locally(ROOT, settings, CLIENTS)

    def alive(self):
        return self._process.is_alive()

    def wait(self):
        self._process.join()
        return self._process.exitcode


class Command:
    """``flasc-flwr local-run``, as its user starts it."""

    def __init__(self, runs, **more):
        words = " ".join(f"{k}={v!r}" for k, v in runs.settings(**more).items())
        command = [sys.executable, "-m", "flasc_flwr.app.cli", "local-run", words]
        with runs.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--clients", str(CLIENTS)], cwd=ROOT, stdout=log, stderr=log
            )
        self.pid = self._process.pid

    def alive(self):
        return self._process.poll() is None

    def wait(self):
        return self._process.wait()


def kill_and_resume(runs, start, seed):
    rng = random.Random(seed)
    killed_between = 0
    for _ in range(MOMENTS):
        before = runs.now()
        process = start(runs)
        # Some moments are in the first seconds, most between two checkpoints.
        # The first one needs a checkpoint to resume from.
        enough = before.releases + max(rng.randrange(6), not before.file)
        while len(runs.lines()) < enough and process.alive():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        assert process.alive(), runs.log.read_text()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        require_honest(runs, before)
        after = runs.now()
        killed_between += (
            after.releases - before.releases > after.checkpoint - before.checkpoint
        )
    # Otherwise no resume had anything to add.
    assert killed_between > 3
    before = runs.now()
    assert start(runs, **{"num-server-rounds": before.checkpoint + 2}).wait() == 0
    require_honest(runs, before)
    (summary,) = runs.output.glob("*/summary.json")
    reported = json.loads(summary.read_text())
    assert reported["ended"] == "all rounds done"
    assert reported["epsilon"] == pytest.approx(epsilon_of(runs.lines()))
    # Every round after a checkpoint was released again after each resume from it.
    assert len(runs.lines()) > before.checkpoint + 2


def require_honest(runs, before):
    """Check what a process reported that started when things were as `before`."""
    lines = runs.lines()
    assert runs.count_used() <= len(lines)
    if runs.now().file == before.file:
        return  # killed before it reopened the folder: its rows are older
    for row in runs.rows():
        if row["round"] > before.checkpoint:
            made = before.releases + row["round"] - before.checkpoint
            assert row["epsilon"] >= epsilon_of(lines[:made]) * (1 - 1e-9)


def test_epsilon_after_a_resume_is_never_below_what_was_released(tmp_path):
    runs = Runs(tmp_path)
    kill_and_resume(runs, Forked, seed=1)
    assert runs.count_used() > MOMENTS


@pytest.mark.exhaustive
def test_the_same_of_the_command(tmp_path):
    kill_and_resume(Runs(tmp_path), Command, seed=2)
