"""docs/plug-in.md's way to make flasc-flwr a dependency, on Flower's own settings."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flasc_flwr import __version__
from tests.end_to_end.processes import BIN, ROOT, Flower

PAGE = (ROOT / "docs" / "plug-in.md").read_text()
APP = Path(__file__).parent / "own_app"
EXAMPLE = ROOT / "examples" / "plug-in"
OFF = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"


def blocks(kind, section):
    """Return the code blocks of one kind in a section of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def dependencies(home):
    """Return the dependencies that the page shows, for someone's home folder."""
    (block,) = [b for b in blocks("toml", "Install") if "dependencies" in b]
    shown = tomllib.loads(block)
    assert shown["tool"]["hatch"]["metadata"]["allow-direct-references"]
    return [line.replace("/home/me", str(home)) for line in shown["dependencies"]]


def test_fault_6_the_page_names_the_wheel_of_this_version():
    (direct,) = [line for line in dependencies("/home/me") if "flasc-flwr" in line]
    wheel = f"flasc_flwr-{__version__}-py3-none-any.whl"
    assert direct == f"flasc-flwr @ file:///home/me/wheels/{wheel}"


def test_the_page_names_tests_that_exist():
    defined = set()
    for file in (ROOT / "tests" / "plug_in").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named and named <= defined
    files = set(re.findall(r"tests/plug_in/\w+\.py", PAGE))
    assert files and all((ROOT / file).is_file() for file in files)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a home folder in which the page's first command has run."""
    home = tmp_path_factory.mktemp("home")
    (command,) = [
        line
        for block in blocks("sh", "Install")
        for line in block.splitlines()
        if line.startswith("pip wheel")
    ]
    env = os.environ | {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    env["PIP_CACHE_DIR"] = str(home / "cache")
    subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, check=True)
    return home


def own_app(folder, dependencies):
    """Copy the app into a folder, and give it some dependencies."""
    shutil.copytree(APP, folder)
    file = folder / "pyproject.toml"
    text = file.read_text()
    assert text.count("dependencies = []") == 1
    file.write_text(text.replace("dependencies = []", f"dependencies = {dependencies}"))
    return folder


@pytest.mark.slow
@pytest.mark.exhaustive
def test_fault_6_an_app_of_ones_own_runs_on_flowers_default_settings(home, tmp_path):
    app = own_app(tmp_path / "app", dependencies(home))
    flower = Flower(tmp_path / "flwr")
    for name in (OFF, "PYTHONPATH"):
        flower.env.pop(name, None)
    federation = "num-supernodes=2 client-resources-num-cpus=1"
    try:
        output = flower.run(
            *("flwr", "run", str(app), "--stream", "--federation-config", federation)
        )
        assert flower.last_run()["status"] == "finished:completed", output
    finally:
        flower.stop_local_superlink()
    (used,) = re.findall("flasc_flwr is (.*)", output)
    assert Path(used).is_relative_to(tmp_path / "flwr" / "runtime-envs")
    assert output.count("Received 2 results and 0 failures") == 2
    assert re.search(r"SparseTransport: .* times\)", output), output


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("app", ["example", "own"])
def test_fault_6_by_name_the_wheel_is_found_through_a_variable(app, home, tmp_path):
    """Resolves what Flower would install, without installing it."""
    shown = "UV_FIND_LINKS=~/wheels flwr run examples/plug-in --stream "
    assert sum(b.count(shown) for b in blocks("sh", "Two lines")) == 2
    folder = tmp_path / "app"
    if app == "own":
        own_app(folder, ["flwr>=1.41,<2", "flasc-flwr"])
    else:
        shutil.copytree(EXAMPLE, folder)
    uv = [sys.executable, "-m", "uv", "sync", "--dry-run", "--no-install-project"]
    env = os.environ | {"UV_FIND_LINKS": str(home / "wheels")}
    done = subprocess.run(uv, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"flasc-flwr=={__version__}" in done.stderr
