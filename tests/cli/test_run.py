"""Watching a run: what is made of Flower's log and of the run folder."""

import importlib
import json
import os
import shutil
import signal

import pytest
from rich.console import Console

from flasc_flwr.app.cli import superlink
from flasc_flwr.app.cli.following import follow, verdict
from flasc_flwr.app.cli.live import Screen, clock, figures
from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.config import RunConfig

# The package has the function under this name.
run_module = importlib.import_module("flasc_flwr.app.cli.run")

LOG = """\
Starting local SuperLink on 127.0.0.1:1...
Successfully started run 77
\x1b[92mINFO \x1b[0m:      Starting Flower Simulation
\x1b[92mINFO \x1b[0m:      Run folder: {folder}
\x1b[92mINFO \x1b[0m:      Starting Flasc strategy, 3 rounds:
\x1b[92mINFO \x1b[0m:      Round 0/3  accuracy 10.0 %  down 0.1 MB
\x1b[92mINFO \x1b[0m:      Run folder: {folder}
"""


class Flower:
    """Stands for ``flwr run``, and tells the lines of a log."""

    def __init__(self, log="", told=None, stopped=True):
        self.log, self._told, self._stopped = log, told or {}, stopped
        self.stopped = None

    def lines(self, every):
        yield None
        for line in self.log.splitlines(keepends=True):
            if line.startswith("Ctrl-C"):
                raise KeyboardInterrupt
            if line.startswith("SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
            yield line

    def told(self, run_id):
        return self._told

    def stop(self, run_id):
        self.stopped = run_id
        return self._stopped


@pytest.fixture
def command(call, monkeypatch):
    """Return a function that calls ``run`` with a Flower that is none."""

    def called(flower, *words):
        def start(app, superlink, options):
            flower.started = (app, superlink, options)
            return flower

        monkeypatch.setattr(superlink, "FlwrRun", start)
        return call("run", *words)

    return called


def test_phases_and_rounds_are_told_as_they_come(runs, capsys):
    folder = runs["flasc-0"]
    progress = Progress(rounds=3)
    follow(Flower(LOG.format(folder=folder)), progress, "title")
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[:5] == [
        "building the app",
        "starting Flower's SuperLink",
        "starting the run",
        "starting the simulation",
        "loading the model and the data",
    ]
    assert [line.split()[1] for line in lines if line.startswith("round")] == [
        f"{number}/3" for number in range(4)
    ]
    summary = json.loads((folder / "summary.json").read_text())
    times = summary["reduction_vs_dense_float32"]
    assert f"less than dense float32 {times:.1f} x" in lines[-1]
    assert f"accuracy {100 * summary['accuracy']:.1f} %" in lines[-1]
    assert (progress.run_id, progress.folder, progress.round) == (77, folder, 3)


def test_a_folder_on_another_machine_is_followed_in_the_log(tmp_path, capsys):
    progress = Progress(rounds=3)
    flower = Flower(
        LOG.format(folder=tmp_path / "far"), {"status": "finished:completed"}
    )
    follow(flower, progress, "title")
    assert "Round 0/3  accuracy 10.0 %" in capsys.readouterr().out
    assert verdict(flower, progress) is None


def test_the_screen_shows_what_is_watched(runs):
    progress = Progress(rounds=3)
    console = Console(force_terminal=True, width=100, record=True)
    screen = Screen(progress, "flasc: digits", console)
    progress.take_in("Successfully started run 5\n")
    console.print(screen._drawn())
    progress.folder = runs["flasc-0"]
    assert len(progress.new_rows()) == 4 and not progress.new_rows()
    console.print(screen._drawn())
    screen.close()
    text = console.export_text()
    assert "starting the run ..." in text
    for words in ("flasc: digits", "round 3/3", "accuracy", "loss", "0:00 left"):
        assert words in text


def test_time_left_waits_for_two_rounds(runs):
    progress = Progress(rounds=9, folder=runs["flasc-0"])
    progress.new_rows()
    seconds = sorted(row["seconds"] for row in progress.rows[1:])
    assert progress.left == pytest.approx(seconds[1] * 6)
    progress.rows = progress.rows[:2]
    assert progress.left is None
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_run_that_ended_well_has_no_reason(runs):
    assert verdict(Flower(), Progress(3, run_id=1, folder=runs["flasc-0"])) is None


def test_the_reason_of_a_failed_run_is_its_summarys(failed):
    progress = Progress(3, run_id=1, folder=failed)
    assert verdict(Flower(), progress) == "the <disk> is full"


def test_without_a_summary_flower_is_asked(unfinished, tmp_path):
    progress = Progress(3, run_id=1, folder=unfinished)
    details = "Simulation failed with exception: no\nmemory"
    flower = Flower(told={"status": "finished:failed", "status-details": details})
    reason = verdict(flower, progress)
    assert reason == "Simulation failed with exception: no; memory"
    going_on = verdict(Flower(told={"status": "running"}), progress)
    assert "Flower says that run 1 is running" in going_on
    # A run that ended without a summary, here, did not end as it should.
    ended = Flower(told={"status": "finished:completed", "status-details": "N/A"})
    progress.log.append("something")
    assert verdict(ended, progress) == "something"


def test_a_run_that_never_began_has_the_logs_reason():
    progress = Progress(3)
    for line in ("╭─ Error ───╮\n", "│ No SuperLink 'x'   │\n", "╰──╯\n"):
        progress.take_in(line)
    assert verdict(Flower(), progress) == "No SuperLink 'x'"
    progress.take_in("ValueError: it is so\n")
    progress.take_in("For more information, visit nothing\n")
    assert verdict(Flower(), progress) == "ValueError: it is so"
    assert verdict(Flower(), Progress(3)) == "flwr run said nothing"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("upload-density='abc'", "upload-density must be a number in (0"),
        ("lora-rnak=3", "did you mean lora-rank?"),
        ("seed=abc", "'seed=abc' cannot be read: allowed is KEY=VALUE"),
        ("dense", "'dense' has no key=value"),
        ("/no/such.toml", "/no/such.toml"),
    ],
)
def test_wrong_settings_fail_at_once_in_one_line(command, settings, reason):
    flower = Flower()
    result = command(flower, "--run-config", settings)
    assert result.exit_code == 1 and not hasattr(flower, "started")
    (line,) = result.stderr.splitlines()
    assert reason in line


def test_the_title_has_the_densities_in_effect():
    title = run_module._title(RunConfig.parse({"method": "dense", "lora-rank": 8}))
    assert title == "dense: digits, rank 8, densities 1 down and 1 up, seed 0"


def test_a_folder_without_an_app_is_told(command, tmp_path):
    result = command(Flower(), tmp_path)
    assert result.exit_code == 1
    assert "is no Flower app" in result.stderr


def test_what_flwr_run_is_given(command, runs):
    flower = Flower(LOG.format(folder=runs["flasc-0"]))
    result = command(flower, "-c", "seed=1", "-c", "lora-rank=2", "--clients", 5)
    assert result.exit_code == 0 and f"Done: {runs['flasc-0']}" in result.stdout
    assert flower.started[2] == [
        "--run-config=seed=1",
        "--run-config=lora-rank=2",
        "--federation-config=num-supernodes=5 client-resources-num-cpus=1",
    ]
    flower = Flower(LOG.format(folder=runs["flasc-0"]))
    command(flower, "--superlink", "devices", "--federation", "@me/mine")
    assert flower.started[1:] == ("devices", ["--federation=@me/mine"])


def test_a_failed_run_ends_with_a_status_and_one_line(command, failed):
    result = command(Flower(LOG.format(folder=failed)))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == f"Error: the run failed: the <disk> is full (see {failed})"


def test_ctrl_c_stops_the_run_and_says_where_it_is(command, unfinished):
    flower = Flower(LOG.format(folder=unfinished) + "Ctrl-C\n", stopped=False)
    result = command(flower)
    assert result.exit_code == 130 and flower.stopped == 77
    assert f"Stopped after round 2: {unfinished}" in result.stderr
    assert "Flower did not stop run 77" in result.stderr
    result = command(Flower("Ctrl-C"))
    assert "before the run had a folder" in result.stderr


def test_sigterm_stops_the_run_as_ctrl_c_does(command, unfinished):
    before = signal.getsignal(signal.SIGTERM)
    flower = Flower(LOG.format(folder=unfinished) + "SIGTERM\n")
    result = command(flower)
    assert result.exit_code == 130 and flower.stopped == 77
    assert f"Stopped after round 2: {unfinished}" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_log_is_printed_if_asked_for(command, runs, tmp_path):
    folder = shutil.copytree(runs["flasc-0"], tmp_path / "one")
    result = command(Flower(LOG.format(folder=folder)), "--log")
    assert result.stdout.count(f"Run folder: {folder}") == 2
    assert "less than dense" not in result.stdout


@pytest.mark.parametrize("epsilon", [None, 1.80312])
def test_what_a_private_run_has_spent_is_shown(epsilon):
    row = {"replies": 3, "failures": [], "round": 1, "seconds": 1.0}
    shown = dict(figures(Progress(rounds=2, rows=[row | {"epsilon": epsilon}])))
    assert shown.get("epsilon") == (None if epsilon is None else "1.803")
