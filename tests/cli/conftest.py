"""Short runs of the digits, made once, and run folders made from their files."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.runs import jobs
from flasc_flwr.app.runs.jobs import Job, run_jobs
from tests.app import in_process
from tests.cli.stand_in import RUN_ID

APP = Path(__file__).parents[2]
SHORT = {
    "num-server-rounds": 3,
    "lora-rank": 2,
    "local-epochs": 1,
    "evaluate-examples": 60,
    "export-every": 2,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two seeds of one method and one of another, in one folder."""
    into = tmp_path_factory.mktemp("runs")
    wanted = {
        f"{method}-{seed}": Job(
            settings=SHORT | {"method": method, "seed": seed}, clients=3
        )
        for method, seed in (("flasc", 0), ("flasc", 1), ("dense", 0))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_start", in_process.start)
        return run_jobs(wanted, into, app=APP)


@pytest.fixture
def runs(made, tmp_path):
    """A copy of these runs that a test may change."""
    into = tmp_path / "runs"
    into.mkdir()
    return {
        name: Path(shutil.copytree(folder, into / name))
        for name, folder in made.items()
    }


@pytest.fixture
def unfinished(runs):
    """A run that has one round left."""
    folder = runs["flasc-1"]
    for name in ("summary.json", "traffic.json", "tensors.json"):
        (folder / name).unlink()
    rows = (folder / "history.jsonl").read_text().splitlines()
    # The last line is incomplete: it is still being written.
    (folder / "history.jsonl").write_text("\n".join(rows[:-1]) + "\n" + rows[-1][:9])
    return folder


@pytest.fixture
def failed(runs):
    """A run that failed before its first round."""
    folder = runs["dense-0"]
    for name in ("traffic.json", "tensors.json", "history.jsonl"):
        (folder / name).unlink()
    summary = {"ended": "failed: the <disk> is full"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def call():
    """Return a function that runs the command line and returns click's result."""

    def called(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return called


@pytest.fixture
def out(tmp_path):
    """The output-dir."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def begun(out):
    """Return a function that puts a run folder where run 77 makes its own."""

    def copied(folder, run_id=RUN_ID):
        name = f"20260101-000000-flasc-seed0-{run_id}"
        return shutil.copytree(folder, out / name)

    return copied
