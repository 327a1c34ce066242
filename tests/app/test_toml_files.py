"""Settings in files: one that cannot be read is named in one line."""

import re

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app

DAMAGED = [b"x = [\n", b"\xff\xfe"]
APP = "[tool.flwr.app.components]\nserverapp = "


@pytest.fixture
def refused():
    """Return a function that runs a command, and returns the line that refuses it."""

    def called(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        (line,) = result.stderr.splitlines()
        return line

    return called


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("command", ["compare", "report", "evaluate", "chat"])
def test_the_settings_of_a_run(tmp_path, refused, command, content):
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text("{}")
    (run / "config.toml").write_bytes(content)
    expected = rf"'{run}/config\.toml' is not a TOML file: "
    assert re.search(expected, refused(command, run))


@pytest.mark.parametrize("content", DAMAGED)
def test_a_profile_and_links(tmp_path, refused, content):
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    assert f"--run-config '{file}': " in refused("check", file)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    line = refused("network", run, "--links", file)
    assert f"'{file}' is not a TOML file: " in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = [", r"pyproject\.toml' is not a TOML file: "),
        (b"tool = 3", "is not a Flower app: it needs a pyproject.toml with"),
        (b"[tool.flwr.app]\nconfig = 3", "and in it the tables 'config' and 'compo"),
    ],
)
def test_an_app(tmp_path, refused, content, reason):
    (tmp_path / "pyproject.toml").write_bytes(content)
    for words in (["run", tmp_path], ["local-run", "--app", tmp_path]):
        assert re.search(reason, refused(*words))


@pytest.mark.parametrize("place", ["3", "'a:b'"])
def test_an_app_without_one_of_its_components(tmp_path, refused, place):
    (tmp_path / "pyproject.toml").write_text(APP + place)
    line = refused("local-run", "--app", tmp_path)
    key = "clientapp" if place == "'a:b'" else "serverapp"
    assert f"must have '{key}' as 'module:object', got" in line
