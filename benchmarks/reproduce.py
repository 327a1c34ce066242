"""Make the runs behind docs/results.md, and its tables and figures from them.

``run`` makes the runs that are missing, and writes a small JSON file for each to
benchmarks/results, which is committed. ``draw`` makes the tables and figures from these
files, without any run.

    PYTHONPATH=. python benchmarks/reproduce.py run --only news --at-once 2
    PYTHONPATH=. python benchmarks/reproduce.py draw
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import reproduce_draw
from reproduce_runs import EXPERIMENTS, profile

from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.runs.jobs import Job, run_jobs

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="make the missing runs")
    run.add_argument("--only", nargs="*", help="prefixes of the runs to make")
    run.add_argument("--into", type=Path, default=Path("reproduce"), help="run folders")
    run.add_argument("--at-once", type=int, default=2)
    run.set_defaults(command=make_runs)
    draw = commands.add_parser("draw", help="print the tables, and draw the figures")
    draw.set_defaults(command=make_tables)
    given = parser.parse_args()
    given.command(given)


def make_tables(given: argparse.Namespace) -> None:
    reproduce_draw.draw(RESULTS, HERE.parent / "docs" / "figures")


def make_runs(given: argparse.Namespace) -> None:
    chosen = {
        name: job
        for name, job in all_jobs().items()
        if not given.only or name.startswith(tuple(given.only))
    }
    missing = {n: j for n, j in chosen.items() if not (RESULTS / f"{n}.json").exists()}
    print(f"{len(chosen)} runs, of which {len(missing)} are to be made", flush=True)

    def keep(name: str, folder: Path) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(result_of(missing[name], folder))
        (RESULTS / f"{name}.json").write_text(text + "\n")
        print(f"{name}: {folder}", flush=True)

    made = run_jobs(
        missing, given.into, app=HERE.parent, at_once=given.at_once, on_end=keep
    )
    for name, folder in made.items():
        if not (RESULTS / f"{name}.json").exists():
            keep(name, folder)


def all_jobs() -> dict[str, Job]:
    """Return every run by its name: experiment, setting, seed."""
    return {
        f"{experiment}-{setting}-seed{seed}": Job(
            settings={**profile(spec.profile), **spec.common, **own, "seed": seed},
            clients=spec.clients,
        )
        for experiment, spec in EXPERIMENTS.items()
        for seed in spec.seeds
        for setting, own in spec.settings.items()
    }


def result_of(job: Job, folder: Path) -> dict[str, Any]:
    """Return what is kept of a run: its settings, bytes and measured accuracies."""
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "settings": dict(job.settings),
        "clients": job.clients,
        "commit": output("git", "rev-parse", "--short", "HEAD"),
        "machine": f"{platform.machine()}, {platform.python_version()}",
        "summary": {k: v for k, v in summary.items() if not isinstance(v, dict)},
        "curve": list(curve(folder)),
    }


def curve(folder: Path) -> Iterable[list[Any]]:
    """Yield round, accuracy, server's accuracy, and bytes down and up until then."""
    down = up = 0
    for row in read_history(folder):
        down, up = down + row["message_bytes_down"], up + row["message_bytes_up"]
        if row["accuracy"] is not None:
            dense = row.get("server_accuracy")
            yield [row["round"], row["accuracy"], dense, down, up]


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
