"""The benchmark of foreign apps fetches one, runs it without and with, and compares."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

PROJECT = """
[project]
name = "tiny"
dependencies = ["flwr", "numpy"]
[tool.flwr.app.components]
serverapp = "tiny_app.server:app"
clientapp = "tiny_app.client:app"
[tool.flwr.app.config]
num-server-rounds = 2
model.width = 20
"""
SERVER = """
import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def evaluate(server_round, arrays):
    return MetricRecord({"norm": float(np.abs(arrays["0"].numpy()).sum())})


@app.main()
def main(grid, context):
    width = context.run_config["model.width"]
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid,
        ArrayRecord([np.ones((width, width), np.float32)]),
        context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
"""
CLIENT = """
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    (weights,) = message.content["arrays"].to_numpy_ndarrays()
    step = np.random.normal(size=weights.shape) + context.node_config["partition-id"]
    content = {
        "arrays": ArrayRecord([(weights + 0.01 * step).astype(np.float32)]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(RecordDict(content), reply_to=message)
"""


@pytest.fixture(scope="module")
def foreign():
    sys.path.insert(0, str(BENCHMARKS))
    import foreign_apps

    yield foreign_apps
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    files = {
        "pyproject.toml": PROJECT,
        "tiny_app/__init__.py": "",
        "tiny_app/server.py": SERVER,
        "tiny_app/client.py": CLIENT,
    }
    for name, text in files.items():
        file = folder / "apps" / "tiny" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "other.txt").write_text("not part of the app")

    def git(*arguments):
        names = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
        command = ["git", "-C", str(folder), *names, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "An app")
    named = git("rev-parse", "HEAD")
    (folder / "apps/tiny/tiny_app/client.py").write_text("raise SystemExit")
    git("commit", "--quiet", "-am", "A later commit breaks it")
    return folder, named


@pytest.fixture(scope="module")
def app(foreign, repository):
    folder, commit = repository
    return foreign.App(
        name="tiny",
        folder="apps/tiny",
        nodes=3,
        metric="server:norm",
        words="one matrix",
        config={"model.width": 60},
        seeds=1,
        repository=f"file://{folder}",
        commit=commit,
    )


def test_an_app_is_fetched_run_and_compared(foreign, app, tmp_path):
    rows = list(foreign.compare(app, tmp_path, []))
    without, with_lines = rows
    assert not without["lines"] and with_lines["lines"]
    for row in rows:
        assert "failed" not in row
        assert row["parameters"] == 3600  # the run config's 60, not the app's own 20
        assert row["rounds"] == 2 and row["calls"] == 6 and row["error_replies"] == 0
        assert len(row["by_round"]) == 3
    plain = 4 * 3600 * 6
    for direction in ("down", "up"):
        assert plain < without[direction] < 1.5 * plain
        assert with_lines[direction] < without[direction]
    assert not list(tmp_path.rglob("other.txt"))
    # What is there is not run again.
    assert list(foreign.compare(app, tmp_path, rows)) == []
    head, _, line = foreign.table(rows)
    assert head.startswith("| app | parameters | metric |")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["tiny", "3,600", "norm, 2 rounds"]
    spent, left = (r["down"] + r["up"] for r in rows)
    assert cells[8] == f"{spent / left:.1f}"


def test_an_app_that_cannot_be_patched_fails_with_the_reason(
    foreign, app, repository, tmp_path
):
    other = replace(app, strategy="NotThere")
    rows = list(foreign.compare(other, tmp_path, [], source=str(repository[0])))
    assert len(rows) == 2
    assert all("NotThere" in row["failed"] for row in rows)


def test_what_cannot_be_fetched_or_run_is_named(foreign, app, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="git .*fetch"):
        next(foreign.compare(replace(app, commit="0" * 40), tmp_path, []))
    with pytest.raises(RuntimeError, match="apps/none"):
        next(foreign.compare(replace(app, folder="apps/none"), tmp_path, []))
    assert foreign.missing(app) == ""
    assert foreign.missing(replace(app, needs=("not_installed",))) == (
        "needs not_installed"
    )
    monkeypatch.delenv("FLASC_DATA", raising=False)
    assert "FLASC_DATA" in foreign.missing(replace(app, data=True))


def test_every_app_of_the_table_has_local_data_and_a_commit(foreign):
    for app in foreign.APPS:
        assert len(app.commit) == 40
        assert app.repository.startswith("https://github.com/")
    assert len(foreign.APPS) >= 8


def test_the_table_of_the_docs_comes_from_the_committed_rows(foreign):
    page = (BENCHMARKS.parent / "docs" / "results.md").read_text()
    rows = [json.loads(line) for line in foreign.RESULTS.read_text().splitlines()]
    lines = foreign.table(rows)
    assert len(lines) >= 2 + 8
    for line in lines:
        assert line in page, line
