"""Take the picture of the live page: figures/live-page.png.

``python docs/tools/screenshots.py FOLDER``, with the folder of runs, finished or not;
needs Chromium or Chrome, and the app.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from flasc_flwr.app.reporting.watch.live_report import LiveReport
from flasc_flwr.app.reporting.watch.server import serving

FIGURES = Path(__file__).parents[1] / "figures"
SIZE = (1100, 760)


def take(address: str, to: Path) -> None:
    """Take a picture of the upper part of a page."""
    names = ("chromium", "google-chrome", "chromium-browser")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise SystemExit("needs Chromium or Chrome")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    size = ",".join(map(str, SIZE))
    shot = (f"--window-size={size}", f"--screenshot={to}", "--virtual-time-budget=5000")
    subprocess.run((browser, *options, *shot, address), check=True, timeout=120)


def main() -> None:
    """Show the runs on the live page, and take its picture."""
    live = LiveReport([Path(folder) for folder in sys.argv[1:]], target=0.8)
    live.look()
    with serving(live) as address:
        take(address, FIGURES / "live-page.png")


if __name__ == "__main__":
    main()
