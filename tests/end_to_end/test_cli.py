"""``flasc-flwr run``, with Flower's real processes."""

import json
import signal
import subprocess
import time

import pytest

from tests.end_to_end.processes import (
    BIN,
    ROOT,
    Flower,
    history,
    results,
    stop,
    wait_until,
)

pytestmark = pytest.mark.slow

COMMAND = [str(BIN / "python"), "-m", "flasc_flwr.app.cli", "run"]


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path / "flwr")
    yield flower
    flower.stop_local_superlink()


@pytest.fixture
def start(flower):
    """Return a function that starts a run; the test ends with all of them stopped."""
    started = []

    def starting(settings, *options):
        process = subprocess.Popen(
            [*COMMAND, str(ROOT), "--run-config", settings, *options],
            env=flower.env | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test that runs in the background inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield starting
    for process in started:
        stop(process.pid)


def test_a_run_shows_how_it_goes_and_a_failing_one_why(flower, start, tmp_path):
    runs = tmp_path / "runs"
    began = time.monotonic()
    process = start(f"num-server-rounds=2 output-dir='{runs}'")
    first = process.stdout.readline()
    assert time.monotonic() - began < 20
    assert first.startswith("[0:0") and "building the app" in first
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    folder, summary, _ = results(runs)
    # The introductions may be over between two looks at the run.
    for words in ("starting the simulation", "loading", f"{folder}"):
        assert words in output
    lines = [line for line in output.splitlines() if "] round" in line]
    assert [line.split()[2] for line in lines] == ["0/2", "1/2", "2/2"]
    assert f"{summary['reduction_vs_dense_float32']:.1f} x" in lines[-1]

    # What only the ServerApp can find out; "flwr run" itself ends with status 0.
    settings = f"adapter='{tmp_path / 'none'}' output-dir='{tmp_path / 'failed'}'"
    process = start(settings, "--clients", "2")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert "adapter must be" in line and str(tmp_path / "none") in line
    assert "Error: the run failed" in line
    assert flower.last_run()["status"] == "finished:failed"


def test_ctrl_c_stops_the_run(flower, start, tmp_path):
    runs = tmp_path / "runs"
    settings = f"num-server-rounds=500 output-dir='{runs}'"
    process = start(settings, "--clients", "2")

    def has_begun():
        return any(len(history(folder)) > 2 for folder in runs.glob("*"))

    wait_until(has_begun, "a round is over", timeout=300)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    (folder,) = runs.iterdir()
    assert "Stopped after round" in errors and str(folder) in errors
    assert flower.last_run()["status"] == "finished:stopped"
    rows = (folder / "history.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["round"] == 0
