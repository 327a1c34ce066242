"""``flasc-flwr supernode`` starts Flower's, with uploads that slow links carry."""

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app

KEY = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"


@pytest.mark.parametrize(("given", "used"), [(None, "262144"), ("4096", "4096")])
def test_a_supernode_sends_small_objects_unless_told_otherwise(
    monkeypatch, given, used
):
    seen = {}

    def execv(path, words):
        seen.update(os.environ, words=" ".join(words))

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "environ", os.environ | {"PATH": "/usr/bin"})
    os.environ.pop(KEY, None)
    if given:
        os.environ[KEY] = given
    result = CliRunner().invoke(app, ["supernode", "--superlink", "x:8000"])
    assert result.exit_code == 0, result.output
    assert seen[KEY] == used
    assert seen["words"].endswith("flower-supernode --superlink x:8000")
    # A service has no activated environment, but Flower's commands are in this one.
    assert seen["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
