"""Several runs in one folder, each in its own process where that matters."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.config import ConfigError
from flasc_flwr.app.runs import jobs
from flasc_flwr.app.runs.jobs import Job, JobError, finished, run_jobs
from tests.app import in_process
from tests.app.test_run_lock import another_process

APP = Path(__file__).parents[2]
SHORT = {"num-server-rounds": 2, "lora-rank": 2, "local-epochs": 1}


def job(**settings):
    return Job(settings=SHORT | settings, clients=3)


def stamps(folders):
    return {f: (f / "summary.json").stat().st_mtime_ns for f in folders.values()}


def test_runs_are_made_once_and_what_is_missing_is_made_later(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_start", in_process.start)
    ended = []
    first = run_jobs(
        {"a": job(seed=1)}, tmp_path, app=APP, on_end=lambda n, f: ended.append(n)
    )
    before = stamps(first)
    both = run_jobs(
        {"a": job(seed=1), "b": job(method="dense")},
        tmp_path,
        app=APP,
        at_once=2,
        on_end=lambda name, folder: ended.append(name),
    )
    assert ended == ["a", "b"]
    assert stamps({"a": both["a"]}) == before
    assert list(both) == ["a", "b"]
    for name, folder in both.items():
        assert folder.parent == tmp_path / name == finished(tmp_path / name).parent
        assert json.loads((folder / "summary.json").read_text())["rounds"] == 2


def test_an_interrupted_run_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_start", in_process.start)
    run_jobs({"a": job(**{"checkpoint-every": 1})}, tmp_path, app=APP)
    run = finished(tmp_path / "a")
    # As if it had been ended before its last round was over.
    (run / "summary.json").unlink()
    note = json.loads((tmp_path / "a" / "job.json").read_text())
    note["settings"]["num-server-rounds"] = 4
    (tmp_path / "a" / "job.json").write_text(json.dumps(note))
    longer = job(**{"checkpoint-every": 1, "num-server-rounds": 4})
    assert run_jobs({"a": longer}, tmp_path, app=APP) == {"a": run}
    rows = [json.loads(r) for r in (run / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]


def test_other_settings_do_not_take_a_folder_over(tmp_path):
    (tmp_path / "a").mkdir()
    note = {"clients": 3, "settings": SHORT}
    (tmp_path / "a" / "job.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_jobs({"a": job(seed=5)}, tmp_path, app=APP)


def test_wrong_settings_are_refused_before_anything_starts(tmp_path):
    wrong = {"a": job(), "b": job(method="flask")}
    with pytest.raises(ConfigError, match="method must be .*, got 'flask'"):
        run_jobs(wrong, tmp_path, app=APP)
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_named_and_the_others_are_made(tmp_path):
    """With real processes, side by side."""
    both = {"bad": job(adapter=str(tmp_path / "none")), "good": job()}
    with pytest.raises(JobError, match="1 of 2 runs failed") as raised:
        run_jobs(both, tmp_path, app=APP, at_once=2)
    assert "bad: " in str(raised.value) and "none'" in str(raised.value)
    assert finished(tmp_path / "good")


def test_a_run_that_was_killed_is_reported_as_such(tmp_path, monkeypatch):
    def start(job, folder, app):
        return subprocess.Popen(["sh", "-c", "kill -TERM $$"])

    monkeypatch.setattr(jobs, "_start", start)
    with pytest.raises(JobError, match="a: killed by SIGTERM; the log is empty"):
        run_jobs({"a": job()}, tmp_path, app=APP)


def test_the_command_line_refuses_wrong_settings_and_folders(tmp_path):
    wrong = CliRunner().invoke(app, ["local-run", "rounds=3"])
    assert wrong.exit_code == 1 and "rounds is not a key" in wrong.stderr
    empty = CliRunner().invoke(app, ["local-run", "--app", str(tmp_path)])
    assert empty.exit_code == 1 and "is not a Flower app" in empty.stderr


@pytest.mark.parametrize("held", [".", "20260101-000000-flasc-seed0-0"])
def test_a_job_that_goes_on_elsewhere_is_not_made_twice(tmp_path, monkeypatch, held):
    """Another sweep makes it, or its run has outlived its sweep."""
    monkeypatch.setattr(jobs, "_start", in_process.start)
    folder = tmp_path / "a" / held
    folder.mkdir(parents=True)
    with another_process(folder), pytest.raises(JobError) as raised:
        run_jobs({"a": job()}, tmp_path, app=APP)
    assert "a: run folder" in str(raised.value) and "in use" in str(raised.value)
    assert not (tmp_path / "a" / "config.toml").exists()
    assert run_jobs({"a": job()}, tmp_path, app=APP)


def test_a_run_ends_with_its_sweep_even_if_that_is_killed(tmp_path):
    """Its stdin is a pipe of the sweep's."""
    code = "import time; from flasc_flwr.app.runs.orphans import end_with; end_with(0)"
    code += "; print(flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code]
    run = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"\n"
    assert run.poll() is None
    run.communicate()
    assert run.returncode == -signal.SIGTERM


def test_a_sweep_starts_runs_that_end_with_it(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        jobs.subprocess, "Popen", lambda words, **more: started.append((words, more))
    )
    jobs._start(job(), tmp_path, APP)
    ((words, more),) = started
    assert words[-1] == "--end-with-stdin" and more["stdin"] == subprocess.PIPE


def test_a_damaged_note_of_a_job_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "job.json").write_text('{"clients": 3,')
    with pytest.raises(ValueError, match=r"a/job.json' cannot be read: "):
        run_jobs({"a": job()}, tmp_path, app=APP)
