"""A short run may leave the base model: it says so, and what helps."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from flasc_flwr.app.cli import app as commands
from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.app.reporting.untrained import untrained
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.core.layout import Role
from tests.app.test_apps import run
from tests.app.tuners import text_of

SAID = "all 8 lora_B of the adapter are zero: it is the base model, but for its head"


def trained_factors(folder):
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    return [bool(b.any()) for name, b in tensors.items() if "lora_B" in name]


def test_row_13_a_run_that_leaves_the_base_model_says_so(tmp_path, caplog):
    result = run(tmp_path, num_server_rounds=2, lora_rank=16)
    assert trained_factors(result.folder) == [False] * 8
    (warning,) = result.summary["warnings"]
    assert warning.startswith(SAID)
    assert "init = 'shared-seed'" in warning and "quota = 'tensor'" in warning
    assert result.summary["ended"] == "all rounds done"
    assert [r.message for r in caplog.records if r.message == warning]
    write_report([read_run(result.folder)], tmp_path / "page.html")
    assert (
        "all 8 lora_B of the adapter are zero" in (tmp_path / "page.html").read_text()
    )


@pytest.mark.parametrize(
    "remedy",
    [{"init": "shared-seed"}, {"quota": "tensor"}, {"num_server_rounds": 7}],
    ids=["shared-seed", "quota", "more rounds"],
)
def test_row_13_what_the_warning_advises_helps(tmp_path, remedy):
    settings = {"num_server_rounds": 1, "lora_rank": 16, **remedy}
    result = run(tmp_path, **settings)
    assert any(trained_factors(result.folder))
    assert "warnings" not in result.summary


@pytest.mark.parametrize("method", ["dense", "flora", "linear", "full"])
def test_row_13_other_methods_have_no_such_trap(tmp_path, method):
    result = run(tmp_path, num_server_rounds=1, method=method)
    assert "warnings" not in result.summary


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "fed-sb"}, "all 8 cores of the adapter are zero"),
        ({"peft_config": text_of("IA3")}, "all 8 tensors of the tuner are zero"),
    ],
    ids=["fed-sb", "IA3"],
)
def test_cores_and_tuners_that_never_travel_are_reported(tmp_path, settings, said):
    """Next to a large head, at a low density."""
    few = {"num_server_rounds": 1, "download_density": 1 / 256, "lora_rank": 16}
    result = run(tmp_path / "few", **few, **settings)
    (warning,) = result.summary["warnings"]
    assert warning.startswith(f"{said}: it is the base model, but for its head")
    assert "init" not in warning and "quota = 'tensor'" in warning
    advised = few | settings | {"quota": "tensor", "upload_density": 1.0}
    load_task.cache_clear()
    assert "warnings" not in run(tmp_path / "advised", **advised).summary


def test_row_13_an_adapter_without_a_head_is_the_base_model_itself():
    a, b = np.ones((2, 3), np.float32), np.zeros((4, 2), np.float32)
    adapter = {"x.lora_A.weight": a, "x.lora_B.weight": b}
    assert "it is the base model. None of" in untrained(adapter)
    assert untrained(adapter | {"y.lora_B.weight": b + 1}) is None
    assert untrained({"head.weight": a}) is None
    tuner = {"x.w": np.zeros(3, np.float32), "head.weight": a}
    roles = {"x.w": Role.OTHER, "head.weight": Role.HEAD}
    assert "all 1 tensors of the tuner are zero" in untrained(tuner, roles)
    assert untrained(tuner | {"x.w": np.ones(3, np.float32)}, roles) is None


def test_row_13_the_report_shows_only_runs_that_have_warnings(tmp_path):
    (tmp_path / "out").mkdir()
    result = run(tmp_path / "out", num_server_rounds=1, method="dense")
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        commands, ["report", str(result.folder), "--out", str(page)]
    )
    assert done.exit_code == 0
    assert "not as meant" not in page.read_text()
    assert json.loads((result.folder / "summary.json").read_text()) == result.summary
