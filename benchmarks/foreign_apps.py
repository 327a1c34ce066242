"""Public Flower apps without and with the two lines of docs/plug-in.md.

Each app's source is fetched at a named commit and run as it is: its own ServerApp and
ClientApp, in one process, with Flower's messages between them. What it downloads is
replaced by local data (foreign/data.py); the two lines are applied when it is imported:
SparseTransport around the strategy that it constructs, flasc_mod in its ClientApp.
Metrics are the app's own, after the last round; bytes are of whole messages, both ways,
of training and evaluation; seconds are the processor's, of a ClientApp's call.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/foreign_apps.py [--only NAME ...]

An app that needs a library that is not installed, or data from FLASC_DATA, is skipped,
with the reason. Rows are added to --rows; a run whose row is there is not repeated.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent
sys.path.insert(0, str(BENCHMARKS))
from foreign.app import App  # noqa: E402
from foreign.catalogue import APPS  # noqa: E402
from foreign.fetch import fetch  # noqa: E402
from foreign.table import table  # noqa: E402

from flasc_flwr.core.printable import printable  # noqa: E402

RESULTS = BENCHMARKS / "results" / "foreign-apps.jsonl"


def missing(app: App) -> str:
    """Return why the app cannot be run here; ``""`` if it can."""
    modules = [name for name in app.needs if not importlib.util.find_spec(name)]
    if modules:
        return f"needs {', '.join(modules)}"
    if app.data and not os.environ.get("FLASC_DATA"):
        return "needs the environment variable FLASC_DATA"
    return ""


def run_once(
    app: App,
    folder: Path,
    *,
    lines: bool,
    seed: int,
    transport: Mapping[str, Any],
    minutes: float,
) -> dict[str, Any]:
    """Run the app in a process and a folder of its own; return its row.

    A run that fails has a row, too: ``failed`` is the last line that it wrote.
    """
    given = {
        "app": asdict(app),
        "folder": str(folder),
        "lines": lines,
        "seed": seed,
        "transport": dict(transport),
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "row.json"
        paths = [str(BENCHMARKS), str(BENCHMARKS.parent)]
        environment = os.environ | {
            "FOREIGN_ROW": str(file),
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-m", "foreign.run", json.dumps(given)]
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                stdout=sys.stderr,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60 * minutes,
            )
            sys.stderr.write(done.stderr)
            words = (done.stderr.strip().splitlines() or [""])[-1]
        except subprocess.TimeoutExpired:
            words = f"not done after {minutes:g} minutes"
        came = {"failed": printable(words, 200)}
        if file.is_file():
            came = json.loads(file.read_text())
    keys = {"app": app.name, "lines": lines, "seed": seed, "metric": app.metric}
    if transport:
        keys["transport"] = dict(transport)
    return keys | came


def compare(
    app: App,
    into: Path,
    rows: list[dict[str, Any]],
    *,
    source: str = "",
    transport: Mapping[str, Any] | None = None,
    minutes: float = 10,
) -> Iterator[dict[str, Any]]:
    """Run what is not among `rows` yet: every seed, without and with the lines."""
    repository = source or app.repository
    name = app.repository.rstrip("/").split("/")[-1]
    folder = fetch(repository, app.commit, app.folder, into / f"{name}-{app.commit}")
    done = {(r["app"], r["lines"], r["seed"]) for r in rows}
    for seed in range(app.seeds):
        for lines in (False, True):
            if (app.name, lines, seed) not in done:
                yield run_once(
                    app,
                    folder,
                    lines=lines,
                    seed=seed,
                    transport=transport or {},
                    minutes=minutes,
                )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[app.name for app in APPS])
    parser.add_argument("--source", default="", help="a local clone of the repository")
    parser.add_argument("--into", type=Path, default=Path("foreign-apps"))
    parser.add_argument("--rows", type=Path, default=RESULTS)
    parser.add_argument("--transport", type=json.loads, default={})
    parser.add_argument("--minutes", type=float, default=10, help="longest run")
    parser.add_argument("--table", action="store_true", help="only print the table")
    given = parser.parse_args(arguments)
    rows = []
    if given.rows.is_file():
        rows = [json.loads(line) for line in given.rows.read_text().splitlines()]
    for app in () if given.table else APPS:
        if given.only and app.name not in given.only:
            continue
        if why := missing(app):
            print(f"{app.name}: skipped, {why}", file=sys.stderr)
            continue
        settings = {
            "source": given.source,
            "transport": given.transport,
            "minutes": given.minutes,
        }
        for row in compare(app, given.into.resolve(), list(rows), **settings):
            rows.append(row)
            with given.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
