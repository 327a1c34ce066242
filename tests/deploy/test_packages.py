"""What is in the wheel and in the sdist. The build needs a package index."""

import re
import tarfile
import zipfile
from email import message_from_bytes

import pytest

from tests.deploy.uv import uv
from tests.end_to_end.processes import ROOT

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both."""
    folder = tmp_path_factory.mktemp("dist")
    done = uv("build", "--quiet", "--out-dir", str(folder), str(ROOT))
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_has_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (about,) = (name for name in names if name.endswith("/METADATA"))
        metadata = message_from_bytes(opened.read(about))
        scripts = opened.read(about.replace("METADATA", "entry_points.txt")).decode()
    info = about.partition("/")[0]
    files = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "flasc_flwr").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if not name.startswith(info)} == files
    assert {"flasc_flwr/py.typed", "flasc_flwr/app/reporting/templates/report.html"} < (
        names
    )
    assert f"{info}/licenses/LICENSE" in names
    assert "flasc-flwr = flasc_flwr.app.cli:main" in scripts
    assert metadata["Name"] == "flasc-flwr"
    assert metadata["Description-Content-Type"] == "text/markdown"
    needed = [n for n in metadata.get_all("Requires-Dist") if "extra ==" not in n]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in needed}
    assert names == {"flwr", "numpy", "rich", "typer"}
    assert wheel.stat().st_size < 2e6


def test_the_sdist_can_be_built_and_tested_and_has_no_secrets(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "mkdocs.yml",
    ):
        assert name in names
    for folder in ("flasc_flwr", "tests", "docs", "conf", "deploy", "examples"):
        assert any(name.startswith(f"{folder}/") for name in names)
    unwanted = (".pem", ".key", ".crt", ".npz", ".safetensors", ".fab", ".pyc")
    assert [name for name in names if name.endswith(unwanted)] == []
    assert [name for name in names if name.startswith("deploy/keys")] == []
    assert sdist.stat().st_size < 10e6
