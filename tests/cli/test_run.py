"""The command ``run``: what Flower is given, and what is printed at the end."""

import importlib
import os
import shutil
import signal

import pytest

from flasc_flwr.app.cli import superlink
from flasc_flwr.app.config import RunConfig
from tests.cli.stand_in import LOG, RUN_ID, Flower

# The package has the function under this name.
run_module = importlib.import_module("flasc_flwr.app.cli.run")


@pytest.fixture
def command(call, monkeypatch, out):
    """Return a function that calls ``run`` with a stand-in for Flower."""

    def called(flower, *words):
        def start(app, superlink, options):
            flower.started = (app, superlink, options)
            return flower

        monkeypatch.setattr(superlink, "FlwrRun", start)
        return call("run", "-c", f"output-dir='{out}'", *words)

    return called


def test_no_line_of_the_log_can_lead_the_view_astray(
    command, out, begun, runs, tmp_path
):
    """A client's text reaches the log; it once named the folder to be followed."""
    evil = shutil.copytree(runs["dense-0"], tmp_path / "evil-99")
    rows = (evil / "history.jsonl").read_text()
    (evil / "history.jsonl").write_text(rows.replace('"accuracy": ', '"accuracy": 7'))
    attack = (
        f"INFO :      Run folder: {evil}\n"
        f"\x1b[2J\x1b]0;title\x07\rRun folder: {evil}\n"
        "Successfully started run 99\n"
        '{"success": true, "run-id": "99"}\n'
        "Round 3/3  accuracy 100.0 %  down 0.1 MB\n"
        "Error: the run failed\n"
    )
    begun(runs["flasc-0"])
    result = command(Flower(LOG + attack))
    assert result.exit_code == 0 and str(evil) not in result.output
    assert f"Done: {out}" in result.stdout and "100.0 %" not in result.output
    # Without a folder, too; and the log is shown without its control characters.
    shutil.rmtree(out)
    flower = Flower(attack, {"status": "finished:failed", "status-details": "\x1b[2J"})
    for words in ((), ("--log",), ("--superlink", "devices")):
        result = command(flower, *words)
        assert result.exit_code == 1 and "Done" not in result.output
        assert "accuracy 7" not in result.output and "round 3/3" not in result.output
        assert result.output.replace("\n", "").isprintable()
    flower = Flower(attack + "Ctrl-C\n")
    assert str(evil) not in command(flower).output and flower.stopped == RUN_ID


def test_a_run_on_devices_shows_flowers_log_and_says_why(command, out):
    flower = Flower(listed={"status": "finished:completed", "status-details": "N/A"})
    result = command(flower, "--superlink", "devices", "--federation", "@me/mine")
    assert result.exit_code == 0
    first, *log, last = result.stdout.splitlines()
    assert str(out) in first and "another machine" in first
    assert any("Starting Flasc strategy, 3 rounds" in line for line in log)
    assert str(out) in last and "run 77" in last
    assert flower.started[1:] == (
        "devices",
        [f"--run-config=output-dir='{out}'", "--federation=@me/mine"],
    )


def test_a_run_that_does_not_start_is_one_line_of_error(command):
    result = command(Flower(fails="flwr run: no SuperLink\n'x'"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == "Error: flwr run: no SuperLink; 'x'"


def test_a_run_without_a_folder_shows_the_end_of_the_log(command):
    listed = {"status": "finished:failed", "status-details": "exit code 9"}
    flower = Flower("".join(f"line {n}\n" for n in range(99)), listed)
    *log, last = command(flower).stderr.splitlines()
    assert log == [f"line {n}" for n in range(79, 99)]
    assert "the run failed" in last and "exit code 9" in last


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("upload-density='abc'", "upload-density must be 'auto' or a number in (0"),
        ("lora-rnak=3", "did you mean lora-rank?"),
        ("seed=abc", "--run-config must be KEY=VALUE pairs"),
        ("dense", "got 'dense'"),
        ("/no/such.toml", "/no/such.toml"),
    ],
)
def test_wrong_settings_fail_at_once_in_one_line(call, monkeypatch, settings, reason):
    flower = Flower()
    monkeypatch.setattr(superlink, "FlwrRun", lambda *given: flower.started)
    result = call("run", "--run-config", settings)
    assert result.exit_code == 1 and not hasattr(flower, "started")
    (line,) = result.stderr.splitlines()
    assert reason in line


def test_the_title_has_the_densities_in_effect():
    title = run_module._title(RunConfig.parse({"method": "dense", "lora-rank": 8}))
    assert title == "dense: digits, rank 8, densities 1 down and 1 up, seed 0"
    full = run_module._title(RunConfig.parse({"method": "full"}))
    assert full == "full: digits, densities 1 down and 1 up, seed 0"
    both = {"upload-bytes": 4000, "upload-density": "1/2", "download-bytes": 9000}
    assert "9000 B down and 1/2 and 4000 B up" in run_module._title(
        RunConfig.parse(both)
    )


def test_a_folder_without_an_app_is_refused(command, tmp_path):
    result = command(Flower(), tmp_path)
    assert result.exit_code == 1
    assert "is not a Flower app" in result.stderr


def test_what_flwr_run_is_given(command, out, begun, runs):
    flower = Flower()
    folder = begun(runs["flasc-0"])
    result = command(flower, "-c", "seed=1", "-c", "lora-rank=2", "--clients", 5)
    assert result.exit_code == 0 and f"Done: {folder}" in result.stdout
    assert flower.started[2] == [
        f"--run-config=output-dir='{out}'",
        "--run-config=seed=1",
        "--run-config=lora-rank=2",
        "--federation-config=num-supernodes=5 client-resources-num-cpus=1",
    ]


def test_a_failed_run_ends_with_a_status_and_one_line(command, begun, failed):
    folder = begun(failed)
    result = command(Flower())
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == f"Error: the run failed: the <disk> is full (see {folder})"


def test_ctrl_c_stops_the_run_and_says_where_it_is(command, out, begun, unfinished):
    folder = begun(unfinished)
    flower = Flower(LOG + "Ctrl-C\n", stops=False)
    result = command(flower)
    assert result.exit_code == 130 and flower.stopped == RUN_ID
    assert f"Stopped after round 2: {folder}" in result.stderr
    assert "did not stop run 77" in result.stderr
    shutil.rmtree(out)
    result = command(Flower("Ctrl-C"))
    assert "before the run had a folder" in result.stderr


def test_sigterm_stops_the_run_as_ctrl_c_does(command, begun, unfinished):
    folder = begun(unfinished)
    before = signal.getsignal(signal.SIGTERM)
    flower = Flower(LOG + "SIGTERM\n")
    result = command(flower)
    assert result.exit_code == 130 and flower.stopped == RUN_ID
    assert f"Stopped after round 2: {folder}" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_resumed_run_is_followed_in_its_folder(command, runs):
    """The folder that ``resume`` names is followed, not one named after the new id."""
    seen = []
    folder = runs["flasc-0"]

    class Resuming(Flower):
        def lines(self, every):
            yield from super().lines(every)
            seen.append((folder / "config.toml").read_text())
            (folder / "config.tmp").write_text(seen[0])
            os.replace(folder / "config.tmp", folder / "config.toml")

    result = command(Resuming(), "-c", f"resume='{folder}'")
    assert result.exit_code == 0 and seen
    assert f"Done: {folder}" in result.stdout and "round 3/" in result.stdout


def test_the_log_is_printed_if_asked_for(command, begun, runs):
    folder = begun(runs["flasc-0"])
    result = command(Flower(LOG + "  indented\n"), "--log")
    assert "INFO :      Starting Flower Simulation" in result.stdout
    assert "\n  indented\n" in result.stdout
    assert f"Done: {folder}" in result.stdout
    assert "less than dense" not in result.stdout
