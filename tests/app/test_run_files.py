"""Files of a run that are damaged, or not from here: taken, or named in one line."""

import json
import re

import pytest
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.reporting.comparison import compare
from flasc_flwr.app.reporting.groups import group
from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.reporting.runs import read_run

ROW = {"message_bytes_down": 8, "message_bytes_up": 4}
TRAFFIC = ["round", "client", "direction", "payload", "message"]
ANSWER = {"round": 0, "example": 0, "prompt": "p", "reference": "r", "answer": "a"}
ANSWER |= {"domain": "", "measure": "rouge_l", "score": 0.5}
TENSOR = {"name": "head", "entries": 2, "kept_down": 1.0, "kept_up": None}


@pytest.fixture
def run(tmp_path):
    """A run with no more than every version has written."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text("")
    rows = "".join(json.dumps({"round": n, **ROW}) + "\n" for n in range(3))
    (folder / "history.jsonl").write_text(rows)
    return folder


def called(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_row_may_lack_what_later_versions_write(run, tmp_path):
    write_report([read_run(run)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    failures, seconds, ended = re.findall(r"<td class=.*?>(.*?)</td>", page)[-3:]
    assert (failures, seconds, ended) == ("-", "-", "unfinished: 2 of 40 rounds")
    (row,) = compare(group([read_run(run)]))
    assert row["seconds"] is None and row["megabytes_down"] == pytest.approx(24e-6)
    assert called("compare", run).exit_code == 0


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("round", "1", "an integer >= 0, got '1'"),
        ("round", 2.0, "an integer >= 0, got 2.0"),
        ("message_bytes_up", -1, "an integer >= 0, got -1"),
        ("message_bytes_down", None, "an integer >= 0, got None"),
        ("accuracy", "0.5", r"a number in \(-inf, inf\), got '0.5'"),
        ("accuracy", float("nan"), r"a number in \(-inf, inf\), got nan"),
        ("seconds", -0.5, r"a number in \[0, inf\), got -0.5"),
        ("seconds_clients", [], r"a number in \[0, inf\), got \[\]"),
        ("failures", 3, "a list of objects, got 3"),
        ("failures", ["x"], r"a list of objects, got \['x'\]"),
        ("replies", True, "an integer >= 0, got True"),
        ("round", 1, "above that of the line before, 2, got 1"),
        ("round", 2, "above that of the line before, 2, got 2"),
    ],
)
def test_a_wrong_value_names_file_line_and_key(run, key, value, allowed):
    row = {"round": 3, **ROW} | {key: value}
    with (run / "history.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    reason = rf"history\.jsonl in '{run}' is damaged: line 4 has a '{key}' that must be"
    with pytest.raises(ValueError, match=f"{reason} {allowed}"):
        read_history(run)
    for command in ("report", "compare", "network"):
        result = called(command, run)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1 and "line 4" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("summary.json", {}, "it has no 'ended'"),
        ("summary.json", {"ended": 1}, "it has a 'ended' that must be text, got 1"),
        (
            "summary.json",
            {"ended": "x", "warnings": "all"},
            "a 'warnings' that must be a list of texts, got 'all'",
        ),
        (
            "summary.json",
            {"ended": "x", "reduction_vs_dense_float32": "2"},
            r"'reduction_vs_dense_float32' that must be a number in \[0, inf\), got",
        ),
        ("traffic.json", {}, "must have 'columns' and 'rows', which are lists"),
        (
            "traffic.json",
            {"columns": TRAFFIC, "rows": [[0, "a", "up", 1, 1], [0, "a", "up", 1]]},
            "row 1 must be a list of 5 values",
        ),
        (
            "traffic.json",
            {"columns": TRAFFIC, "rows": [[0, "a", "up", 1, "1"]]},
            "row 0 has a 'message' that must be an integer >= 0, got '1'",
        ),
        ("tensors.json", {"tensors": []}, "it has no 'bits_per_parameter'"),
        (
            "tensors.json",
            {"tensors": [TENSOR, TENSOR | {"name": 3}], "bits_per_parameter": {}},
            "tensor 1 has a 'name' that must be text, got 3",
        ),
        (
            "tensors.json",
            {"tensors": [TENSOR], "bits_per_parameter": {"up": "9"}},
            "its 'bits_per_parameter' has a 'up' that must be a number",
        ),
        ("answers.jsonl", {"round": 0}, "line 1 has no 'example'"),
        (
            "answers.jsonl",
            ANSWER | {"measure": "taste"},
            "line 1 has a 'measure' that must be one of .*, got 'taste'",
        ),
        ("answers.jsonl", [], "line 1 must be a JSON object, got a list"),
    ],
)
def test_a_report_names_the_file_that_is_damaged(run, tmp_path, name, content, reason):
    (run / name).write_text(json.dumps(content) + "\n")
    result = called("report", run, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert re.search(rf"{name} in '{run}' is damaged: .*{reason}", line), line


def test_what_is_not_text_is_named_too(run):
    (run / "history.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="history.jsonl in .* is damaged: 'utf-8'"):
        read_history(run)


def test_a_text_may_hold_what_other_readers_take_for_the_end_of_a_line(run):
    row = {"round": 3, **ROW, "skip_reason": "one\u2028two\x85three"}
    with (run / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    assert read_history(run)[-1] == row


def test_answers_and_tensors_of_a_whole_run_are_shown(run, tmp_path):
    (run / "answers.jsonl").write_text(json.dumps(ANSWER) + "\n")
    tensors = {"tensors": [TENSOR], "bits_per_parameter": {"down": 2.0}}
    (run / "tensors.json").write_text(json.dumps(tensors))
    write_report([read_run(run)], tmp_path / "page.html")
    assert "2.00 down" in (tmp_path / "page.html").read_text()


def test_bytes_are_not_added_to_a_summary_that_cannot_be_shown(run):
    for content in ({}, {"rounds": None}):
        summary = {"ended": "all rounds done"} | content
        (run / "summary.json").write_text(json.dumps(summary))
        result = called("wire-bytes", run, "devices", "7")
        assert result.exit_code == 1
        assert "summary.json in" in result.stderr
        assert "it has no 'rounds'" in result.stderr
