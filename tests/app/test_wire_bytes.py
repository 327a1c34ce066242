"""The SuperLink's own count, in the summary beside ours."""

import json

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.reporting.summary import summarise
from flasc_flwr.core.traffic import Direction, Sent, Traffic

FLWR = """#!/bin/sh
echo "Loading connection"
if [ "$4" = 7 ] || [ "$4" = 8 ]; then
    echo '{"success": true, "runs": [{"network-traffic":'
    echo '{"inbound-bytes": '$4'00, "outbound-bytes": '$4'000}}]}'
else
    echo '{"success": false, "error-message": "Run ID not found"}'
fi
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished run's folder, and a `flwr` that knows runs 7 and 8."""
    command = tmp_path / "bin" / "flwr"
    command.parent.mkdir()
    command.write_text(FLWR)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    traffic = Traffic()
    traffic.record(
        Sent(round=1, client="a", direction=Direction.UP, payload=100, message=650)
    )
    path = tmp_path / "20260101-000000-flasc-seed0-7"
    path.mkdir()
    summary = summarise([], traffic, 10, "all rounds done")
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def wire_bytes(*arguments):
    return CliRunner().invoke(app, ["wire-bytes", *map(str, arguments)])


def test_the_three_counts_stand_side_by_side(folder):
    result = wire_bytes(folder, "devices")
    assert result.exit_code == 0
    summary = json.loads((folder / "summary.json").read_text())
    counts = [summary[f"{kind}_bytes_up"] for kind in ("payload", "message", "wire")]
    assert counts == [100, 650, 700]
    assert summary["wire_bytes_down"] == 7000
    printed = result.stdout
    assert "Payloads down, up                      0.000 MB, 0.000 MB" in printed
    assert "SuperLink's own count down, up         0.007 MB, 0.001 MB" in printed


def test_the_parts_of_a_resumed_run_are_added(folder):
    assert wire_bytes(folder, "devices", 7, 8).exit_code == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["wire_bytes_down"], summary["wire_bytes_up"]) == (15000, 1500)


def test_what_cannot_be_told_is_said(folder):
    before = (folder / "summary.json").read_text()
    unknown = wire_bytes(folder, "devices", 9)
    assert unknown.exit_code == 1 and "'devices'" in unknown.stderr
    assert "run 9" in unknown.stderr and "Run ID not found" in unknown.stderr
    assert wire_bytes(folder / "nowhere", "devices").exit_code == 1
    assert (folder / "summary.json").read_text() == before
    (folder / "summary.json").write_text('{"ended": "failed: no battery"}')
    failed = wire_bytes(folder, "devices")
    assert failed.exit_code == 1 and "of a run that failed" in failed.stderr
    # One that failed later has its totals.
    totals = json.loads(before) | {"ended": "failed: no battery"}
    (folder / "summary.json").write_text(json.dumps(totals))
    failed = wire_bytes(folder, "devices")
    assert failed.exit_code == 1 and "of a run that failed" in failed.stderr
    assert wire_bytes(folder).exit_code == 2
