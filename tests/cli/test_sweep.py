"""All combinations of some settings."""

import importlib

import pytest

from flasc_flwr.app.cli.combinations import axes, jobs
from flasc_flwr.app.config import ConfigError
from flasc_flwr.app.runs import jobs as runs
from flasc_flwr.app.runs import local_run
from tests.app import in_process
from tests.cli.conftest import APP, SHORT


def test_every_combination_is_a_job_named_after_its_values():
    values = axes(
        {"method": "flasc,dense", "upload-density": "1/4,0.0625"},
        ["weighting=uniform", "exact-residual=auto"],
    )
    assert values["upload-density"] == ["1/4", 0.0625]
    made = jobs({"seed": 3}, values, clients=7)
    assert len(made) == 4
    name = "method=dense_upload-density=0.25_weighting=uniform_exact-residual=auto"
    assert made[name].clients == 7
    assert made[name].settings == {
        "seed": 3,
        "method": "dense",
        "upload-density": "1/4",
        "weighting": "uniform",
        "exact-residual": "auto",
    }


@pytest.mark.parametrize(
    ("named", "grid", "reason"),
    [
        ({}, [], "a sweep needs values"),
        ({}, ["seed"], "KEY=V1,V2, got 'seed'"),
        ({"seed": "0"}, ["seed=1"], "seed is given twice"),
        ({}, ["output-dir=/tmp/a"], "output-dir: set by the sweep"),
        ({"upload-density": "1/4,0.25"}, [], "two combinations are the same run"),
        ({}, ["lora-targets=/a/b,-a-b"], "two combinations are the same run"),
    ],
)
def test_wrong_combinations_are_refused(named, grid, reason):
    with pytest.raises(ValueError, match=reason):
        jobs({}, axes(named, grid), clients=2)


@pytest.fixture
def own_app(tmp_path):
    """An app whose ``pyproject.toml`` sets more than the defaults."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        "[tool.flwr.app.components]\nserverapp = 'a:b'\nclientapp = 'a:b'\n"
        "[tool.flwr.app.config]\nseed = 0\nlora-rank = 8\nlocal-epochs = 5\n"
        "output-dir = '/elsewhere'\nresume = 'latest'\n"
    )
    return folder


def test_what_the_apps_pyproject_sets_counts_in_a_sweep(
    call, monkeypatch, tmp_path, own_app
):
    """As for ``flwr run``; what a sweep sets itself does not."""
    seen = {}
    module = importlib.import_module("flasc_flwr.app.cli.sweep")
    monkeypatch.setattr(module, "_make", lambda jobs, *_: seen.update(jobs))
    words = ["sweep", "--into", tmp_path / "s", "--app", own_app, "--seed", "1,2"]
    assert call(*words, "-c", "local-epochs=3").exit_code == 0
    settings = [dict(job.settings) for job in seen.values()]
    assert settings == [{"lora-rank": 8, "local-epochs": 3, "seed": s} for s in (1, 2)]


def test_what_the_apps_pyproject_sets_counts_in_a_local_run(call, monkeypatch, own_app):
    seen = []
    monkeypatch.setattr(local_run, "run_locally", lambda *given: seen.append(given))
    usual = {"lora-rank": 8, "local-epochs": 5}
    apart = {"output-dir": "/elsewhere", "resume": "latest"}
    words = ["local-run", "--app", own_app, "--clients", "3"]
    assert call(*words, "seed=4").exit_code == 0
    assert seen == [(own_app, {**usual, **apart, "seed": 4}, 3)]


def test_an_app_with_wrong_settings_is_refused(call, tmp_path, own_app):
    project = own_app / "pyproject.toml"
    project.write_text(project.read_text().replace("lora-rank = 8", "lora-rank = 0"))
    for words in (["local-run"], ["sweep", "--into", tmp_path / "s", "--seed", "1"]):
        result = call(*words, "--app", own_app)
        assert result.exit_code == 1 and "lora-rank must be" in result.stderr


def test_a_wrong_value_is_refused_before_anything_runs(call, tmp_path):
    with pytest.raises(ConfigError, match="lora-rank must be .*, got 0"):
        jobs({}, {"lora-rank": [4, 0]}, clients=2)
    result = call("sweep", "--into", tmp_path / "s", "--lora-rank", "4,0", "--app", APP)
    assert result.exit_code == 1 and not (tmp_path / "s").exists()
    (line,) = result.stderr.splitlines()
    assert "lora-rank must be" in line


def test_runs_are_made_compared_and_not_made_again(call, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_start", in_process.start)
    base = " ".join(f"{key}={value}" for key, value in SHORT.items())
    words = ["sweep", "--into", tmp_path, "--seed", "0", "--app", APP, "--clients", 3]
    words += ["-c", base, "--grid"]
    result = call(*words, "task=digits")
    assert result.exit_code == 0, result.output
    assert "1 runs in" in result.stdout and "0 done, 1 left" in result.stdout
    name = "seed=0_task=digits"
    assert f"1/1 {name}: " in result.stdout and "less than dense" in result.stdout
    # The same run is not made again, and one that fails does not hide it.
    failing = call(*words, "task=digits,causal-lm")
    assert failing.exit_code == 1
    assert "2 runs in" in failing.stdout and "1 done, 1 left" in failing.stdout
    assert name + ":" not in failing.stdout
    assert "less than dense" in failing.stdout
    (line,) = failing.stderr.splitlines()
    assert "1 of 2 runs failed" in line and "causal-lm" in line


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_a_tilde_is_the_home_folder(call, tmp_path, monkeypatch, command):
    """A shell leaves the one in --into=~/s as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "_start", lambda *_: in_process.Ended(1))
    words = [command, "--into=~/s", "--app", APP, "--clients", 3]
    more = {
        "sweep": ["--seed", "0"],
        "search": ["--per-round-megabytes", 1, "--probe-megabytes", 1],
    }
    assert call(*words, *more[command]).exit_code == 1
    assert (tmp_path / "s").is_dir() and not (tmp_path / "~").exists()
