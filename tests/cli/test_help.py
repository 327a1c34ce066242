"""The help texts, and what they cost."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flasc_flwr.app.cli import app

COMMANDS = {
    command.callback.__name__.replace("_", "-"): command.callback
    for command in app.registered_commands
}


def test_all_commands_are_there(call):
    text = call("--help").output
    for name in (
        *("run", "report", "compare", "network", "sweep", "search"),
        *("export", "evaluate", "check", "noise", "local-run", "wire-bytes"),
        *COMMANDS,
    ):
        assert re.search(rf"\b{name}\b", text), name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_for_all_it_takes(call, name):
    result = call(name, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert COMMANDS[name].__doc__.splitlines()[0] in text


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom flasc_flwr.app.cli import app\n"
        "try:\n    app(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split("MODULES")[1].split())
    assert not modules & {"torch", "ray", "matplotlib", "tomli_w", "transformers"}


def test_what_is_not_installed_is_named_with_the_way_to_get_it(call, runs, monkeypatch):
    for name in [m for m in sys.modules if m.startswith("flasc_flwr.app.reporting.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("report", runs["flasc-0"])
    assert result.exit_code == 1
    assert "matplotlib is not installed: pip install 'flasc-flwr[app]'" in result.stderr


def test_the_script_is_declared():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"flasc-flwr": "flasc_flwr.app.cli:main"}
