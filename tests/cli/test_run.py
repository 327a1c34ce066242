"""Watching a run: what is shown, and from what."""

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
from flasc_flwr.app.cli.superlink import StartError
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_folder import RunFolder

# The package has the function under this name.
run_module = importlib.import_module("flasc_flwr.app.cli.run")

RUN_ID = 77
LOG = """\
\x1b[92mINFO \x1b[0m:      Starting Flower Simulation
\x1b[92mINFO \x1b[0m:      Starting Flasc strategy, 3 rounds:
"""


class Flower:
    """Takes the place of FlwrRun, and yields the lines of a log."""

    def __init__(self, log=LOG, listed=None, stops=True, fails=""):
        self.log, self._listed, self._stops, self._fails = log, listed, stops, fails
        self.run_id, self.stopped = None, None

    def lines(self, every):
        yield None
        if self._fails:
            raise StartError(self._fails)
        self.run_id = RUN_ID
        for line in self.log.splitlines(keepends=True):
            if line.startswith("Ctrl-C"):
                raise KeyboardInterrupt
            if line.startswith("SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
            yield line

    def listed(self):
        return self._listed or {}

    def stop(self):
        self.stopped = self.run_id
        return self._stops


@pytest.fixture
def out(tmp_path):
    """The output-dir."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def begun(out):
    """Return a function that puts a run folder where run 77 makes its own."""

    def copied(folder, run_id=RUN_ID):
        name = f"20260101-000000-flasc-seed0-{run_id}"
        return shutil.copytree(folder, out / name)

    return copied


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


def progress_of(runs, **more):
    return Progress(rounds=3, runs=runs, **more)


def test_the_folder_of_a_new_run_is_found_by_its_id(out):
    progress = progress_of(out)
    config = RunConfig.parse({"output-dir": str(out)})
    RunFolder.create(config, run_id=5)
    assert progress.look(None) is None
    assert "starting the simulation" in progress.look(RUN_ID)
    assert progress.folder is None
    created = RunFolder.create(config, run_id=RUN_ID)
    assert progress.look(RUN_ID) == "loading the model and the data"
    assert progress.folder == created.path
    assert progress.look(RUN_ID) is None


def test_the_folder_of_a_resumed_run_counts_once_the_run_has_opened_it(runs):
    folder = runs["flasc-0"]
    progress = progress_of(folder.parent, resumed=folder)
    progress.look(RUN_ID)
    assert progress.folder is None and not progress.new_rows()
    config = folder / "config.toml"
    rewritten = folder / "config.tmp"
    rewritten.write_text(config.read_text())
    os.replace(rewritten, config)
    progress.look(RUN_ID)
    assert progress.folder == folder and len(progress.new_rows()) == 4


def test_phases_and_rounds_are_shown_as_they_come(out, begun, runs, capsys):
    progress = progress_of(out)

    class Slow(Flower):
        """Makes the folder, then its rows, between two looks at the run."""

        def lines(self, every):
            yield from super().lines(every)
            progress.look(self.run_id)
            folder = begun(runs["flasc-0"])
            rows = (folder / "history.jsonl").read_text()
            (folder / "history.jsonl").unlink()
            assert not progress.new_rows()
            (folder / "history.jsonl").write_text(rows)

    follow(Slow(), progress, "title")
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("building the app")
    assert lines[1] == "loading the model and the data"
    assert [line.split()[1] for line in lines[2:]] == [f"{n}/3" for n in range(4)]
    summary = json.loads((progress.folder / "summary.json").read_text())
    times = summary["reduction_vs_dense_float32"]
    assert f"less than dense float32 {times:.1f} x" in lines[-1]
    assert f"accuracy {100 * summary['accuracy']:.1f} %" in lines[-1]
    assert progress.round == 3


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


def test_the_screen_shows_what_is_watched(out, begun, runs):
    progress = progress_of(out)
    console = Console(force_terminal=True, width=100, record=True)
    screen = Screen(progress, "flasc: digits", console)
    progress.look(RUN_ID)
    console.print(screen._drawn())
    begun(runs["flasc-0"])
    progress.look(RUN_ID)
    assert len(progress.new_rows()) == 4 and not progress.new_rows()
    console.print(screen._drawn())
    screen.close()
    text = console.export_text()
    assert "starting the simulation" in text and "flwr log 77" in text
    for words in ("flasc: digits", "round 3/3", "accuracy", "loss", "0:00 left"):
        assert words in text


def test_time_left_waits_for_two_rounds(runs, out):
    progress = Progress(rounds=9, runs=out, folder=runs["flasc-0"])
    progress.new_rows()
    seconds = sorted(row["seconds"] for row in progress.rows[1:])
    assert progress.left == pytest.approx(seconds[1] * 6)
    progress.rows = progress.rows[:2]
    assert progress.left is None
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_a_run_that_ended_well_has_no_reason(runs, out):
    progress = progress_of(out, folder=runs["flasc-0"])
    assert verdict(Flower(), progress) is None


def test_the_reason_of_a_failed_run_is_its_summarys(failed, out):
    progress = progress_of(out, folder=failed)
    assert verdict(Flower(), progress) == "the <disk> is full"


def test_without_a_summary_flower_is_asked(unfinished, out):
    def reason(status, details="N/A", folder=unfinished):
        flower = Flower(listed={"status": status, "status-details": details})
        flower.run_id = RUN_ID
        return verdict(flower, progress_of(out, folder=folder))

    assert "finished:failed: no memory" in reason("finished:failed", "no memory")
    assert "run 77 is running" in reason("running")
    assert "run 77 is unknown" in reason("unknown")
    # A run that ended here without a summary did not end well.
    assert "no summary" in reason("finished:completed")
    # One without a folder here may have it on another machine.
    assert reason("finished:completed", folder=None) is None


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
        ("upload-density='abc'", "upload-density must be a number in (0"),
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


@pytest.mark.parametrize("epsilon", [None, 1.80312])
def test_what_a_private_run_has_spent_is_shown(tmp_path, epsilon):
    row = {"replies": 3, "failures": [], "round": 1, "seconds": 1.0}
    shown = dict(figures(progress_of(tmp_path, rows=[row | {"epsilon": epsilon}])))
    assert shown.get("epsilon") == (None if epsilon is None else "1.803")
