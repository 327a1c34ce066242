"""Following a run: what is shown, from what, and how it ended."""

import json
import os

import pytest
from rich.console import Console

from flasc_flwr.app.cli.following import follow, verdict
from flasc_flwr.app.cli.live import Screen, clock, figures
from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_folder import RunFolder
from tests.cli.stand_in import RUN_ID, Flower


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
    assert progress.folder is None and not list(progress.new_rows())
    config = folder / "config.toml"
    rewritten = folder / "config.tmp"
    rewritten.write_text(config.read_text())
    os.replace(rewritten, config)
    progress.look(RUN_ID)
    assert progress.folder == folder and len(list(progress.new_rows())) == 4


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
            assert not list(progress.new_rows())
            (folder / "history.jsonl").write_text(rows)

    follow(Slow(), progress, "title")
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("building the app")
    assert lines[1] == "loading the model and the data"
    assert [line.split()[1] for line in lines[2:]] == [f"{n}/3" for n in range(4)]
    # Each line has the totals up to its round, even if several rows come at once.
    sent = [line.split("down ")[1].split(" MB")[0] for line in lines[2:]]
    assert sorted(set(sent), key=float) == sent
    summary = json.loads((progress.folder / "summary.json").read_text())
    times = summary["reduction_vs_dense_float32"]
    assert f"less than dense float32 {times:.1f} x" in lines[-1]
    assert f"accuracy {100 * summary['accuracy']:.1f} %" in lines[-1]
    assert progress.round == 3


def test_the_screen_shows_what_is_watched(out, begun, runs):
    progress = progress_of(out)
    console = Console(force_terminal=True, width=100, record=True)
    screen = Screen(progress, "flasc: digits", console)
    progress.look(RUN_ID)
    console.print(screen._drawn())
    begun(runs["flasc-0"])
    progress.look(RUN_ID)
    assert len(list(progress.new_rows())) == 4 and not list(progress.new_rows())
    console.print(screen._drawn())
    screen.close()
    text = console.export_text()
    assert "starting the simulation" in text and "flwr log 77" in text
    for words in ("flasc: digits", "round 3/3", "accuracy", "loss", "0:00 left"):
        assert words in text


def test_time_left_waits_for_two_rounds(runs, out):
    progress = Progress(rounds=9, runs=out, folder=runs["flasc-0"])
    list(progress.new_rows())
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


@pytest.mark.parametrize("epsilon", [None, 1.80312])
def test_what_a_private_run_has_spent_is_shown(tmp_path, epsilon):
    row = {"replies": 3, "failures": [], "round": 1, "seconds": 1.0}
    shown = dict(figures(progress_of(tmp_path, rows=[row | {"epsilon": epsilon}])))
    assert shown.get("epsilon") == (None if epsilon is None else "1.803")
