"""A finished run is never touched: resumed, it says that there is nothing to do."""

import json
import tomllib
from logging import INFO

import pytest
from typer.testing import CliRunner

import client_app
from flasc_flwr.app.cli import app as commands
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import ForbiddenGrid, run

LONG = {"num_server_rounds": 3, "checkpoint_every": 2}


def everything_in(folder):
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def resume(tmp_path, grid=None, **settings):
    """Resume the latest run where no client may be asked."""
    grid = grid or ForbiddenGrid(client_app.app, 4)
    return run(tmp_path, grid, **{"resume": "latest"} | settings)


@pytest.mark.parametrize("every", [1, 2])
def test_row_1_a_finished_run_has_nothing_to_resume(tmp_path, caplog, every):
    folder = run(tmp_path, num_server_rounds=3, checkpoint_every=every).folder
    before = everything_in(folder)
    caplog.set_level(INFO, "flwr")
    for settings in ({}, {"num_server_rounds": 2}, {"resume": str(folder)}):
        usual = {"num_server_rounds": 3, "checkpoint_every": every}
        resume(tmp_path, **usual | settings)
        assert everything_in(folder) == before
        assert f"Nothing to resume in {folder}: it has all of its 3" in caplog.text
        caplog.clear()


def test_row_1_a_run_that_a_condition_stopped_resumes_only_without_it(tmp_path):
    stopping = {"num_server_rounds": 5, "checkpoint_every": 1, "stop_accuracy": 0.01}
    stopped = run(tmp_path, **stopping)
    before = everything_in(stopped.folder)
    assert "reached the target" in stopped.summary["ended"]
    for same in ({}, {"num_server_rounds": 9}, {"stop_accuracy": 0.02}):
        resume(tmp_path, **stopping | same)
        assert everything_in(stopped.folder) == before
    config = RunConfig(lora_rank=4, local_epochs=1).to_dict()
    grid = LocalGrid(client_app.app, 4, run_config=config)
    resumed = resume(tmp_path, grid, **stopping | {"stop_accuracy": 0.0})
    assert resumed.summary["ended"] == "all rounds done"
    assert [row["round"] for row in resumed.history] == list(range(6))


@pytest.mark.parametrize(
    "condition",
    [
        {"stop_megabytes": 0.001},
        {"stop_client_megabytes": 0.001},
        {"stop_patience": 1, "server_learning_rate": 1e-9},
    ],
)
def test_row_1_bytes_and_patience_are_read_back(tmp_path, condition):
    stopping = {"num_server_rounds": 6, "checkpoint_every": 1, **condition}
    folder = run(tmp_path, **stopping).folder
    before = everything_in(folder)
    assert read_run(folder).rounds < 6
    resume(tmp_path, **stopping)
    assert everything_in(folder) == before


def test_row_1_a_spent_privacy_budget_stays_spent(tmp_path):
    private = {
        "num_server_rounds": 6,
        "checkpoint_every": 1,
        "dp_clip_norm": 1.0,
        "dp_noise_multiplier": 1.0,
        "dp_population": 4,
        "dp_max_epsilon": 9.0,
    }
    stopped = run(tmp_path, **private)
    assert "dp-max-epsilon" in stopped.summary["ended"]
    before = everything_in(stopped.folder)
    resume(tmp_path, **private | {"stop_accuracy": 0.99})
    assert everything_in(stopped.folder) == before


def test_row_1_a_finished_run_that_cannot_continue_stays_as_it_was(tmp_path):
    folder = run(tmp_path, **LONG).folder
    before = everything_in(folder)

    class Gone(LocalGrid):
        def push_messages(self, messages):
            raise OSError("the SuperLink is gone")

    with pytest.raises(OSError, match="is gone"):
        resume(tmp_path, Gone(client_app.app, 4), num_server_rounds=6)
    assert everything_in(folder) == before


def test_row_1_a_run_that_was_killed_after_its_last_round_is_finished(tmp_path):
    """Its checkpoint has all rounds; what is written at the end is missing."""
    whole = run(tmp_path, num_server_rounds=2, checkpoint_every=1)
    tensors = json.loads((whole.folder / "tensors.json").read_text())
    adapter = (whole.folder / "adapter/adapter_model.safetensors").read_bytes()
    for name in ("summary.json", "tensors.json", "traffic.json"):
        (whole.folder / name).unlink()
    (whole.folder / "adapter/adapter_model.safetensors").unlink()
    resumed = resume(tmp_path, checkpoint_every=1)
    assert resumed.summary == whole.summary
    assert resumed.history == whole.history
    assert (whole.folder / "adapter/adapter_model.safetensors").read_bytes() == adapter
    again = json.loads((whole.folder / "tensors.json").read_text())
    assert [t["kept_down"] for t in again["tensors"]] == [
        t["kept_down"] for t in tensors["tensors"]
    ]
    # The uploads of the last round are not in a checkpoint.
    assert {t["kept_up"] for t in again["tensors"]} == {None}


def test_a_run_that_goes_on_keeps_no_adapter_that_its_history_lacks(tmp_path):
    """Neither that of its earlier end, nor of rounds that are made again."""
    settings = {"num_server_rounds": 4, "checkpoint_every": 2, "export_every": 1}
    settings |= {"evaluate_examples": 20}
    folder = run(tmp_path, **settings).folder
    (folder / "checkpoints" / "checkpoint-000004.flasc").unlink()
    (folder / "summary.json").unlink()

    def adapters():
        return sorted(path.name for path in folder.glob("adapter*"))

    everything = ["adapter", *(f"adapter-round-000{n}" for n in (1, 2, 3, 4))]
    assert adapters() == everything

    class Killed(LocalGrid):
        def push_messages(self, messages):
            messages = list(messages)
            rounds = {m.metadata.group_id for m in messages if m.metadata.group_id}
            if rounds & {"4"}:
                seen.append(adapters())
                raise OSError("killed")
            return super().push_messages(messages)

    seen = []
    config = RunConfig(lora_rank=4, local_epochs=1).to_dict()
    # Where nothing is made, nothing is lost.
    with pytest.raises(AssertionError):
        resume(tmp_path, **settings)
    assert adapters() == everything
    with pytest.raises(OSError, match="killed"):
        resume(
            tmp_path,
            Killed(client_app.app, 4, run_config=config),
            **settings | {"export_every": 2},
        )
    assert seen == [["adapter-round-0001", "adapter-round-0002"]]
    result = CliRunner().invoke(commands, ["evaluate", str(folder)])
    assert "available: round 1, round 2" in result.stderr
    resume(tmp_path, LocalGrid(client_app.app, 4, run_config=config), **settings)
    assert adapters() == everything


def test_row_1_the_command_line_says_it_and_exits_with_0(tmp_path):
    folder = run(tmp_path, checkpoint_every=1).folder
    before = everything_in(folder)
    settings = tomllib.loads((folder / "config.toml").read_text())
    words = " ".join(
        f"{key}={value!r}".replace("True", "true").replace("False", "false")
        for key, value in (settings | {"resume": "latest"}).items()
    )
    for command in (["run", "--run-config", words], ["local-run", words]):
        done = CliRunner().invoke(commands, command)
        assert done.exit_code == 0, done.output
        assert everything_in(folder) == before
