"""The SuperLink's own count, in the summary beside ours."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.reporting.summary import as_table, summarise
from flasc_flwr.app.reporting.wire_bytes import add_wire_bytes
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
    monkeypatch.setattr("sys.executable", str(command.with_name("python")))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    traffic = Traffic()
    traffic.record(
        Sent(round=1, client="a", direction=Direction.UP, payload=100, message=650)
    )
    path = tmp_path / "20260101-000000-flasc-seed0-7"
    path.mkdir()
    summary = summarise([], traffic, 10, "all rounds done")
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def test_the_three_counts_stand_side_by_side(folder):
    returned = add_wire_bytes(folder, "devices")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == returned
    counts = [summary[f"{kind}_bytes_up"] for kind in ("payload", "message", "wire")]
    assert counts == [100, 650, 700]
    assert summary["wire_bytes_down"] == 7000
    table = as_table(summary)
    assert "Payloads down, up                      0.000 MB, 0.000 MB" in table
    assert "SuperLink's own count down, up         0.007 MB, 0.001 MB" in table


def test_the_parts_of_a_resumed_run_are_added(folder):
    summary = add_wire_bytes(folder, "devices", [7, 8])
    assert (summary["wire_bytes_down"], summary["wire_bytes_up"]) == (15000, 1500)


def test_a_resumed_run_needs_all_of_its_ids(folder):
    """Its folder's name has the first only: the others' bytes would be missing."""
    (folder / "config.toml").write_text("resume = 'latest'")
    with pytest.raises(ValueError, match="RUN_ID must be .* resumed: list all of its"):
        add_wire_bytes(folder, "devices")
    assert add_wire_bytes(folder, "devices", [7, 8])["wire_bytes_down"] == 15000
    (folder / "config.toml").write_text("resume = ''")
    assert add_wire_bytes(folder, "devices")["wire_bytes_down"] == 7000


def test_a_folder_may_be_named_from_within(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert add_wire_bytes(Path("."), "devices")["wire_bytes_down"] == 7000


def test_what_has_no_counts_is_named_and_left_as_it_is(folder):
    before = (folder / "summary.json").read_text()
    with pytest.raises(ValueError, match=r"(?s)'devices'.* run 9.*Run ID not found"):
        add_wire_bytes(folder, "devices", [9])
    with pytest.raises(OSError, match="nowhere"):
        add_wire_bytes(folder / "nowhere", "devices")
    assert (folder / "summary.json").read_text() == before
    # One fails before its first round, the other after some: it has totals.
    failed = {"ended": "failed: no battery"}
    for summary in (failed, json.loads(before) | failed):
        (folder / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(ValueError, match="summary.json' is of a run that failed"):
            add_wire_bytes(folder, "devices")


def test_the_command_prints_the_counts_or_what_is_wrong(folder):
    def wire_bytes(*arguments):
        return CliRunner().invoke(app, ["wire-bytes", *map(str, arguments)])

    done = wire_bytes(folder, "devices")
    assert done.exit_code == 0
    assert "SuperLink's own count down, up         0.007 MB, 0.001 MB" in done.stdout
    unknown = wire_bytes(folder, "devices", 9)
    assert unknown.exit_code == 1 and "run 9" in unknown.stderr
    assert wire_bytes(folder).exit_code == 2


def test_a_folder_without_an_id_or_a_summary_is_said_to_be_one(folder, tmp_path):
    renamed = folder.rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match="RUN_ID must be given, because the name of"):
        add_wire_bytes(renamed, "devices")
    with pytest.raises(OSError, match="has no summary.json: it is not the folder"):
        add_wire_bytes(tmp_path, "devices")


def test_flower_is_that_of_this_environment(folder, monkeypatch, tmp_path):
    """Another one may be of another version; and ours need not be activated."""
    other = tmp_path / "other" / "flwr"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho another version\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin:/bin")
    assert add_wire_bytes(folder, "devices")["wire_bytes_up"] == 700
