"""A run's folder is written to by one process at a time."""

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting import RunFolder, run_lock
from flasc_flwr.app.reporting.run_lock import RunInUseError, hold

HOLD = """
import sys
from pathlib import Path
from flasc_flwr.app.reporting.run_lock import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder):
    """Hold a folder in another process; yield it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def resumed(folder):
    """Return a run that is to be resumed from its start."""
    checkpoint = SimpleNamespace(state=SimpleNamespace(history=[]))
    return SimpleNamespace(folder=folder, checkpoint=checkpoint, finished=False)


def test_a_run_that_goes_on_is_not_resumed(tmp_path):
    history = tmp_path / "history.jsonl"
    history.write_text("a row\n")
    with another_process(tmp_path) as process:
        with pytest.raises(RunInUseError, match=r"run folder '.*' is in use: .*"):
            RunFolder.reopen(resumed(tmp_path), RunConfig())
        assert history.read_text() == "a row\n"
        process.kill()
        process.wait()
        # A process that was killed holds nothing.
        RunFolder.reopen(resumed(tmp_path), RunConfig())
    assert history.read_text() == ""


def test_a_folder_is_free_when_its_run_ends(tmp_path):
    config = RunConfig(output_dir=str(tmp_path))
    with RunFolder.create(config, run_id=1) as folder, pytest.raises(RunInUseError):
        hold(folder.path)
    hold(folder.path)


def test_where_there_are_no_locks_the_log_says_so(tmp_path, monkeypatch, caplog):
    def none(self, timeout):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.FileLock, "acquire", none)
    hold(tmp_path)
    assert "folder cannot be locked (OSError): do not resume" in caplog.text
