"""Runs that cannot succeed: they fail early, and say what to change."""

import ast
import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import client_app
from flasc_flwr.app.cli import app as commands
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting import run_folder
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.state.checkpoint_files import read
from flasc_flwr.flower.state.health import DivergedError, RunFailedError
from tests.app.test_apps import run

SMALL = RunConfig(lora_rank=4, local_epochs=1).to_dict()


def only_run(tmp_path):
    (folder,) = tmp_path.iterdir()
    return read_run(folder)


def strict(text):
    """Read JSON as other readers do: NaN and Infinity are not in the standard."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("every", [1, 2])
def test_row_11_a_run_that_became_nan_fails(tmp_path, every):
    huge = {"server_learning_rate": 1e36, "num_server_rounds": 6}
    with pytest.raises(DivergedError) as raised:
        run(tmp_path, **huge, evaluate_every=every, checkpoint_every=1)
    said = str(raised.value)
    assert f"the model became NaN or infinite in round {every}, loss is" in said
    assert "the last good state is that after round 0" in said
    assert "lower server-learning-rate" in said and "client-learning-rate" in said
    found = only_run(tmp_path)
    assert (found.status, found.ended) == ("failed", f"failed: {said}")
    assert found.rounds == every
    # The last good state: as an adapter, and as the newest checkpoint.
    kept = read(found.folder / "checkpoints")
    assert kept.round == 0 and np.isfinite(kept.state.vector).all()
    assert np.abs(kept.state.vector).max() < 10
    assert (found.folder / "adapter/adapter_config.json").is_file()
    for name in ("history.jsonl", "summary.json", "traffic.json"):
        text = (found.folder / name).read_text()
        for line in text.splitlines() if name == "history.jsonl" else [text]:
            strict(line)


def test_row_11_a_run_whose_steps_are_never_finite_fails_after_three(tmp_path):
    with pytest.raises(DivergedError) as raised:
        run(tmp_path, server_learning_rate=3e38, num_server_rounds=9)
    said = str(raised.value)
    assert "no step was finite in 3 rounds up to round 3" in said
    assert "because the stepped weights are not finite" in said
    assert "lower server-learning-rate" in said
    assert only_run(tmp_path).rounds == 3


def test_row_11_clients_that_become_nan_after_a_good_start_end_the_run(tmp_path):
    def app(message, context):
        reply = client_app.app(message, context)
        current = message.content.config_records.get("config", {})
        if current.get("server-round", 0) >= 3:
            raise ValueError("array 'x' must hold finite numbers")
        return reply

    grid = LocalGrid(app, 4, run_config=SMALL)
    with pytest.raises(DivergedError, match="up to round 5, .*'x' must hold finite"):
        run(tmp_path, grid, num_server_rounds=9)
    found = only_run(tmp_path)
    assert found.rounds == 5 and found.history[2]["loss"] is not None
    assert (found.folder / "adapter/adapter_config.json").is_file()


def test_row_11_a_model_that_is_nan_from_the_start_fails_at_once(tmp_path, monkeypatch):
    from flasc_flwr.app.tasks.task import Task

    before = Task.evaluate

    def evaluate(self, examples):
        outcome = before(self, examples)
        return replace(outcome, loss=math.nan)

    monkeypatch.setattr(Task, "evaluate", evaluate)
    with pytest.raises(RuntimeError, match="loss before the first round is nan"):
        run(tmp_path)


def test_row_11_all_json_is_written_by_one_function():
    """It replaces NaN and infinity, which are not in the standard, by null."""
    allowed = {
        "core/json_lines.py",
        # Cells of a table as bytes, and as text to look at: nothing is written.
        "app/tasks/formats/cells.py",
        "app/tasks/formats/json_file.py",
        # A script on its own, whose request has text only.
        "app/prepared/stand_in.py",
    }
    root = Path(client_app.__file__).parent / "flasc_flwr"
    for path in root.rglob("*.py"):
        name = str(path.relative_to(root))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or name in allowed:
                continue
            assert ast.unparse(node) not in ("json.dumps", "json.dump"), name


def test_row_16_what_all_clients_raise_ends_the_run_after_the_first_round(tmp_path):
    def app(message, context):
        if "config" in message.content:
            number = context.node_config["partition-id"]
            raise OSError(f"row {number} of column 'label' must be a number")
        return client_app.app(message, context)

    grid = LocalGrid(app, 4, run_config=SMALL)
    with pytest.raises(RunFailedError) as raised:
        run(tmp_path, grid, num_server_rounds=9)
    said = "no client can train: all 2 clients of round 1 failed for the same reason"
    assert str(raised.value).startswith(f"{said}: row ")
    found = only_run(tmp_path)
    assert found.status == "failed" and found.rounds == 1
    assert not (found.folder / "adapter").exists()


def test_row_16_clients_that_become_nan_at_once_are_told_what_to_lower(tmp_path):
    with pytest.raises(RunFailedError) as raised:
        run(tmp_path, client_learning_rate=1e30)
    said = str(raised.value)
    assert "must hold finite numbers. Next time, lower server-learning-rate" in said
    assert "client-learning-rate" in said


def failing(when):
    def app(message, context):
        config = message.content.config_records.get("config")
        if config and when(config["server-round"], context.node_config["partition-id"]):
            raise OSError("the battery is empty")
        return client_app.app(message, context)

    return LocalGrid(app, 4, run_config=SMALL)


@pytest.mark.parametrize(
    "when",
    [
        lambda current, client: current > 1,
        lambda current, client: client != 0,
    ],
    ids=["later", "not all"],
)
def test_row_16_other_failures_do_not_end_a_run(tmp_path, when):
    result = run(tmp_path, failing(when), num_server_rounds=3, fraction_train=1.0)
    assert result.summary["rounds"] == 3


def test_row_16_different_reasons_do_not_end_a_run(tmp_path):
    def app(message, context):
        if "config" in message.content:
            raise OSError("ab"[context.node_config["partition-id"] % 2])
        return client_app.app(message, context)

    grid = LocalGrid(app, 4, run_config=SMALL)
    with pytest.raises(RuntimeError, match="no round had enough valid replies"):
        run(tmp_path, grid, num_server_rounds=2, fraction_train=1.0)
    assert only_run(tmp_path).rounds == 2


def test_row_11_the_command_line_exits_with_1_and_says_why(tmp_path):
    words = f"server-learning-rate=1e36 lora-rank=4 output-dir='{tmp_path}'"
    done = CliRunner().invoke(commands, ["local-run", words, "--clients", "4"])
    assert done.exit_code == 1
    last = done.output.strip().splitlines()[-1]
    assert last.startswith("Error: the run failed: the model became NaN or infinite in")
    assert "lower server-learning-rate" in last


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that has no room for the checkpoint of round 2."""
    whole = Checkpoint.write_to

    def write_to(checkpoint, file):
        if checkpoint.round == 2:
            file.write(b"a part of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(checkpoint, file)

    monkeypatch.setattr(Checkpoint, "write_to", write_to)
    return monkeypatch


def test_a_full_disk_ends_the_run_and_loses_nothing_that_was_written(
    tmp_path, full_disk
):
    with pytest.raises(OSError, match="No space left .*checkpoint-000002.flasc"):
        run(tmp_path, num_server_rounds=3, checkpoint_every=1)
    found = only_run(tmp_path)
    assert found.status == "failed" and "checkpoint-000002.flasc" in found.ended
    assert found.rounds == 2 and (found.folder / "traffic.json").is_file()
    assert not list(found.folder.rglob("*.tmp"))  # what was written of it took room
    assert read(found.folder / "checkpoints").round == 1
    full_disk.undo()
    resumed = run(tmp_path, num_server_rounds=3, checkpoint_every=1, resume="latest")
    assert [row["round"] for row in resumed.history] == [0, 1, 2, 3]
    assert resumed.summary["ended"] == "all rounds done"


def test_a_folder_that_became_read_only_ends_the_run_with_the_first_reason(
    tmp_path, full_disk, caplog
):
    def write_text(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    full_disk.setattr(run_folder, "write_text", write_text)
    with pytest.raises(OSError, match="No space left .*checkpoint-000002.flasc"):
        run(tmp_path, num_server_rounds=3, checkpoint_every=1)
    assert "summary could not be written: [Errno 30] Read-only" in caplog.text
