"""Benchmarks can be imported, and the fast ones run at a tiny size."""

import csv
import logging
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = sorted(BENCHMARKS.rglob("*.py"))
SIZES = ("", "-phone")
TINY = {
    "aggregation": "--parameters 20000 --replies 2 --more 3 --repeats 1",
    "codec_speed": "--size 10000 --rounds 1",
    "methods": "--rounds 1 --clients 2 --only flasc flora",
    "plug_in": "--rounds 1 --strategy FedAvg",
    "rank_aggregation": "--epochs 1 --seeds 1",
}


@pytest.fixture(autouse=True)
def _siblings(monkeypatch):
    # One benchmark imports another by name, as Python does for a script.
    monkeypatch.syspath_prepend(BENCHMARKS)
    # Some make Flower's log quieter: not for the tests that follow.
    logger = logging.getLogger("flwr")
    level = logger.level
    yield
    logger.setLevel(level)


def run(monkeypatch, name, *arguments):
    script = str(BENCHMARKS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(script, run_name="__main__")


def test_the_peak_of_a_phase_does_not_have_that_of_the_one_before():
    script = runpy.run_path(str(BENCHMARKS / "aggregation.py"))
    phases = script["Phases"]()
    large = np.ones(8_000_000)
    before = large.nbytes / 1e6
    del large
    phases.end()
    phases.end()
    assert phases.peaks[0] > phases.peaks[1] + 0.8 * before


@pytest.mark.parametrize(
    "module", MODULES, ids=lambda path: str(path.relative_to(BENCHMARKS))
)
def test_a_benchmark_can_be_imported(module, monkeypatch):
    from flasc_flwr.app.tasks.task import Task

    # timed_steps.py replaces some of these when it is imported.
    for step, function in list(vars(Task).items()):
        if callable(function) and not step.startswith("__"):
            monkeypatch.setattr(Task, step, function)
    runpy.run_path(str(module), run_name="imported")


@pytest.mark.parametrize("name", TINY)
def test_a_fast_benchmark_runs(name, monkeypatch, capfd):
    run(monkeypatch, name, *TINY[name].split())
    assert capfd.readouterr().out.strip()


def test_masks_of_a_run_are_recorded_and_measured(monkeypatch, tmp_path):
    masks = tmp_path / "masks.npz"
    run(monkeypatch, "record_masks", masks, "--rounds", 1, "--clients", 2)
    run(monkeypatch, "codec", "--masks", masks, "--repeats", 1, "--into", tmp_path)
    rows = list(csv.DictReader((tmp_path / "codec-masks.csv").open()))
    cases = {f"round 1 {what}" for what in ("weights", "update", "difference")}
    assert {row["case"] for row in rows} == cases
    for row in rows:
        assert int(row["payload_bytes"]) < 4 * int(row["size"])
        assert float(row["position_bits"]) > 0


def test_the_codec_is_measured_beside_alternatives(monkeypatch, tmp_path):
    run(monkeypatch, "codec", "--sizes", 1000, "--repeats", 1, "--into", tmp_path)
    committed = BENCHMARKS / "results"
    for name in ("codec.csv", "codec-alternatives.csv"):
        made, kept = ((folder / name).open() for folder in (tmp_path, committed))
        assert csv.DictReader(made).fieldnames == csv.DictReader(kept).fieldnames


def test_the_figures_of_the_docs_come_from_the_committed_results(
    monkeypatch, tmp_path, capsys
):
    reproduce = runpy.run_path(str(BENCHMARKS / "reproduce_draw.py"))
    reproduce["draw"](BENCHMARKS / "results", tmp_path)
    docs = BENCHMARKS.parent / "docs"
    drawn = {path.name for path in tmp_path.iterdir()}
    # Of docs/tools.
    pictures = {f"{page}-page{of}.png" for page in ("live", "report") for of in SIZES}
    others = pictures | {"one-round.json", "one-round.svg", "pages.json"}
    assert drawn | others == {path.name for path in (docs / "figures").iterdir()}
    tables = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    pages = (docs / "results.md").read_text() + (docs / "privacy.md").read_text()
    assert tables
    for line in tables:
        assert line in pages, line
