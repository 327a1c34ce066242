import json

import pytest

from flasc_flwr.app.reporting.exchanges import exchanges_of
from flasc_flwr.app.reporting.runs import read_run

COLUMNS = ["round", "client", "direction", "payload", "message"]
ROWS = [[0, "a", "down", 0, 6], [0, "a", "up", 0, 8], [1, "a", "down", 9, 20]]
ROWS += [[1, "b", "down", 4, 10], [1, "b", "up", 2, 10]]


def a_run(folder, traffic=None):
    rows = [
        {"round": 0, "message_bytes_down": 6, "message_bytes_up": 8, "replies": 0},
        {"round": 1, "message_bytes_down": 30, "message_bytes_up": 10, "replies": 2},
    ]
    (folder / "config.toml").write_text("")
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if traffic is not None:
        (folder / "traffic.json").write_text(json.dumps(traffic))
    return read_run(folder)


def test_a_run_is_read_by_client(tmp_path):
    run = a_run(tmp_path, {"columns": COLUMNS, "rows": ROWS})
    assert exchanges_of(run) == {0: {"a": (6, 8)}, 1: {"a": (20, 0), "b": (10, 10)}}


def test_without_traffic_an_even_split_is_made_only_if_asked(tmp_path):
    run = a_run(tmp_path)
    with pytest.raises(ValueError, match=r"traffic.json.*--even-split"):
        exchanges_of(run)
    assert exchanges_of(run, even_split=True) == {
        0: {"0": (3, 4), "1": (3, 4)},
        1: {"0": (15, 5), "1": (15, 5)},
    }


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        ({"columns": ["round"], "rows": [[1]]}, "damaged: its 'columns' lack 'client'"),
        (
            {"columns": COLUMNS, "rows": [[0, "a", "left", 0, 6]]},
            "damaged: row 0 has a 'direction' that must .*'up', got 'left'",
        ),
        ({"columns": COLUMNS, "rows": [[0, "a"]]}, "row 0 must be a list of 5 values"),
        ({"columns": COLUMNS, "rows": [[0, 1, "up", 0, 6]]}, "'client' that must be t"),
        ({"columns": COLUMNS, "rows": ROWS[:-1]}, r"has \(30, 0\).*\(30, 10\)"),
        ({"columns": 1, "rows": []}, "must have 'columns' and 'rows', which are lists"),
        ([], "traffic.json in .* is damaged: it must be a JSON object, got a list"),
    ],
)
def test_a_wrong_traffic_file_is_named(tmp_path, traffic, message):
    with pytest.raises(ValueError, match=message):
        exchanges_of(a_run(tmp_path, traffic))


def test_an_even_split_needs_the_number_of_replies(tmp_path):
    run = a_run(tmp_path)
    del run.history[1]["replies"]
    with pytest.raises(ValueError, match="has no 'replies' in round 1, among which"):
        exchanges_of(run, even_split=True)


def test_a_run_without_rounds_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ValueError, match="without a finished round"):
        exchanges_of(read_run(tmp_path))
