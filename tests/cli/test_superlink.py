"""Flower's commands as processes, with a small program in Flower's place."""

import sys
import time

import pytest

from flasc_flwr.app.cli import superlink
from flasc_flwr.app.cli.superlink import FlwrRun, StartError

STARTED = '{"success": true, "run-id": "12345678901"}'
FLWR = """
import pathlib, sys, time
words = sys.argv[1:]
with open(r"CALLS", "a") as calls:
    calls.write(" ".join(words) + "\\n")
if words[0] == "run":
    time.sleep(PAUSE)
    print("a notice")
    print(ANSWER)
elif words[0] == "log":
    print('{"success": true, "run-id": "99"}')
    sys.stdout.buffer.write(b"Successfully started run 99 \\xff\\n")
elif words[0] == "list":
    print('Loading {"success": true, "runs": [{"status": "finished:failed"}]} done')
sys.exit(words[0] == "stop" and "STOPS" == "no")
"""


@pytest.fixture
def flwr(tmp_path, monkeypatch):
    """Return a function that sets what ``flwr`` does; it returns the calls so far."""
    calls = tmp_path / "calls"

    def installed(
        answer='{"success": true, "run-id": "12345678901"}', pause=0, stops=1
    ):
        program = FLWR.replace("CALLS", str(calls)).replace("PAUSE", str(pause))
        program = program.replace("ANSWER", repr(answer))
        program = program.replace("STOPS", "yes" if stops else "no")
        monkeypatch.setattr(superlink, "_flwr", lambda: [sys.executable, "-c", program])
        return lambda: calls.read_text().splitlines()

    return installed


def test_the_id_comes_from_the_answer_and_not_from_the_log(flwr, tmp_path):
    calls = flwr(pause=0.5)
    run = FlwrRun(tmp_path, "devices", ["--run-config=seed=1"])
    lines = list(run.lines(0.05))
    assert run.run_id == 12345678901
    assert lines[0] is None
    log = [line for line in lines if line]
    assert log[0].startswith('{"success": true') and "run 99" in log[1]
    assert run.listed() == {"status": "finished:failed"}
    assert run.stop()
    assert calls() == [
        f"run {tmp_path} devices --format json --run-config=seed=1",
        "log 12345678901 devices",
        "list devices --run-id 12345678901 --format json",
        "stop 12345678901 devices",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"success": false, "error-message": "no {x}"}', "no {x}"),
        ("No such option", "No such option"),
        ('{"success": true}', "success"),
        ('{"success": true, "run-id": null}', "success"),
    ],
)
def test_a_run_that_does_not_start_has_flowers_reason(flwr, tmp_path, answer, reason):
    flwr(answer)
    with pytest.raises(StartError, match=reason):
        list(FlwrRun(tmp_path, None, []).lines(5))


def test_a_run_is_stopped_even_while_it_is_being_started(flwr, tmp_path):
    calls = flwr(pause=1)
    run = FlwrRun(tmp_path, None, [])
    began = time.monotonic()
    next(run.lines(0.05))
    assert run.stop() and time.monotonic() - began < 20
    assert calls()[-1] == "stop 12345678901"


def test_a_run_that_flower_does_not_stop_is_reported(flwr, tmp_path):
    flwr(stops=False)
    run = FlwrRun(tmp_path, None, [])
    list(run.lines(5))
    assert not run.stop()
