"""Take the pictures of the live page and of the report: figures/*-page*.png.

``python -m docs.tools.screenshots`` makes two short runs first;
``python -m docs.tools.screenshots FOLDER`` shows runs that exist. Needs the app, and
Chromium or Chrome. The pictures belong to the code that they show: beside them lies
its fingerprint, and a test compares.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.tools.browser import Page, browser
from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.runs import find_runs, read_run
from flasc_flwr.app.reporting.watch.live_report import LiveReport
from flasc_flwr.app.reporting.watch.server import serving

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
FINGERPRINT = FIGURES / "pages.json"
# Name, width and height of each picture.
SIZES = {"": (1280, 900), "-phone": (390, 844)}
_TARGET = 0.8
_SHORT = "num-server-rounds=20 local-epochs=1 checkpoint-every=0"
_SHOWN_BY = (
    "flasc_flwr/app/reporting/templates/report.html",
    "flasc_flwr/app/reporting/templates/style.css",
    "flasc_flwr/app/reporting/watch/page.py",
    "flasc_flwr/app/reporting/run_figures.py",
)


def fingerprint() -> dict[str, str]:
    """Return the SHA-256 of each file that makes the pages."""
    return {
        name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        for name in _SHOWN_BY
    }


def take(page: Page, address: str, name: str, into: Path = FIGURES) -> None:
    """Take pictures of the upper part of a page, one for each size."""
    for suffix, (width, height) in SIZES.items():
        page.resize(width, height)
        page.open(address)
        (into / f"{name}{suffix}.png").write_bytes(page.picture())


def pictures(folder: Path, into: Path = FIGURES) -> list[str]:
    """Take all pictures of a folder's runs; return what the pages wrote to the console.

    On the live page the newest run is shown as if it were at three quarters.
    """
    runs = find_runs([folder])
    with tempfile.TemporaryDirectory() as scratch, browser() as page:
        report = Path(scratch) / "report.html"
        write_report([read_run(run) for run in runs], report, _TARGET)
        take(page, report.as_uri(), "report-page", into)

        live_runs = Path(scratch) / "runs"
        for run in runs:
            shutil.copytree(run, live_runs / run.name)
        _cut(live_runs / runs[-1].name)
        live = LiveReport([live_runs], target=_TARGET)
        live.look()
        with serving(live) as address:
            take(page, address, "live-page", into)
        return page.console


def _cut(run: Path) -> None:
    """Leave three quarters of a run's rounds, as while it goes on."""
    for name in ("summary.json", "traffic.json", "tensors.json"):
        (run / name).unlink(missing_ok=True)
    history = run / "history.jsonl"
    rows = history.read_text().splitlines(keepends=True)
    history.write_text("".join(rows[: 1 + 3 * len(rows) // 4]))


def main() -> None:
    """Take the pictures, and note what they show."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            for method in ("dense", "flasc"):
                settings = f"{_SHORT} method='{method}' output-dir='{scratch}'"
                run = (sys.executable, "-m", "flasc_flwr.app.cli", "local-run")
                subprocess.run((*run, settings, "--clients", "20"), check=True)
        if console := pictures(folder):
            raise SystemExit("\n".join(console))
    FINGERPRINT.write_text(json.dumps(fingerprint(), indent=2) + "\n")


if __name__ == "__main__":
    main()
