"""What every device fetches of the app, once a run."""

import io
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

ROOT = Path(__file__).parents[2]


def test_devices_fetch_the_app_and_nothing_else():
    bundle = build_fab_from_disk(ROOT)
    with zipfile.ZipFile(io.BytesIO(bundle)) as opened:
        names = {name for name in opened.namelist() if not name.startswith(".info/")}
    modules = {str(p.relative_to(ROOT)) for p in ROOT.glob("flasc_flwr/**/*.py")}
    apps = {"server_app.py", "client_app.py"}
    # The rest is what `uv sync` needs to install it.
    assert names == modules | apps | {"pyproject.toml", "README.md", "LICENSE"}
    assert len(bundle) < 2_000_000
