"""Getting adapters out of run folders, evaluating them, and checking configs."""

import json

import pytest


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_last_adapter_and_that_of_a_round(call, runs, tmp_path):
    run = runs["flasc-0"]
    result = call("export", run, "--to", tmp_path / "last")
    assert result.exit_code == 0 and str(tmp_path / "last") in result.stdout
    assert contents(tmp_path / "last") == contents(run / "adapter")
    (tmp_path / "empty").mkdir()
    assert call("export", run, "--round", 2, "--to", tmp_path / "empty").exit_code == 0
    assert contents(tmp_path / "empty") == contents(run / "adapter-round-0002")


def test_a_folder_with_something_in_it_is_left_alone(call, runs, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    for target in ("there", "there/mine"):
        result = call("export", runs["flasc-0"], "--to", tmp_path / target)
        assert result.exit_code == 1
        assert "must be a new or empty folder" in result.stderr
    assert contents(tmp_path / "there") == {"mine": b"x"}


def test_the_available_rounds_are_listed(call, runs, tmp_path):
    result = call("export", runs["flasc-0"], "--round", 1, "--to", tmp_path / "to")
    assert result.exit_code == 1 and not (tmp_path / "to").exists()
    (line,) = result.stderr.splitlines()
    assert "no adapter of round 1; available: round 2, the last one" in line


def test_one_run_is_wanted(call, runs, tmp_path):
    result = call("export", runs["flasc-0"].parent, "--to", tmp_path / "to")
    assert result.exit_code == 1
    assert "with 3 runs: dense-0, flasc-0, flasc-1" in result.stderr


@pytest.mark.parametrize("where", [".", "adapter"])
def test_an_evaluation_is_that_of_the_run(call, runs, where):
    result = call("evaluate", runs["flasc-0"] / where)
    assert result.exit_code == 0, result.output
    summary = json.loads((runs["flasc-0"] / "summary.json").read_text())
    printed = dict(line.split() for line in result.stdout.splitlines())
    assert printed["examples"] == "60"
    assert float(printed["accuracy"]) == pytest.approx(summary["accuracy"], abs=1e-6)
    assert float(printed["loss"]) == pytest.approx(summary["loss"], abs=1e-4)


def test_what_cannot_be_evaluated_is_one_line_of_error(call, runs, tmp_path):
    for words in ([tmp_path], [runs["flasc-0"], "-c", "lora-rnak=2"]):
        result = call("evaluate", *words)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_a_config_is_checked(call):
    result = call("check", "upload-density='1/16' lora-rank=8")
    assert result.exit_code == 0
    assert "upload-density = 0.0625\n" in result.stdout
    assert "lora-rank = 8\n" in result.stdout
    wrong = call("check", "lora-rank=0")
    assert wrong.exit_code == 1 and "lora-rank must be" in wrong.stderr


def test_an_adapter_is_not_exported_into_itself(call, runs):
    adapter = runs["dense-0"] / "adapter"
    before = sorted(adapter.rglob("*"))
    for to in (adapter / "copy", runs["dense-0"] / "x" / ".." / "adapter" / "copy"):
        result = call("export", runs["dense-0"], "--to", to)
        assert result.exit_code == 1
        assert "--to must not be in what is exported" in result.stderr
    assert sorted(adapter.rglob("*")) == before


def test_runs_below_the_home_folder_are_listed(call, runs, monkeypatch):
    monkeypatch.setenv("HOME", str(runs["dense-0"].parents[1]))
    result = call("export", "~/runs", "--to", "~/new")
    assert result.exit_code == 1
    assert "RUN must be one run, got '~/runs' with 3 runs: dense-0, " in result.stderr
