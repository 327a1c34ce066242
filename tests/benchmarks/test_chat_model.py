"""The chat model's committed rows are those of its script, its profile and the docs."""

import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    json.loads(line)
    for line in (ROOT / "benchmarks/results/chat-model.jsonl").read_text().splitlines()
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import chat_model

    return chat_model


def curve(name, seed):
    (found,) = [r["curve"] for r in ROWS if (r["run"], r["seed"]) == (name, seed)]
    return found


def test_the_rows_are_those_of_the_script(script):
    made = [(row["run"], row["seed"]) for row in ROWS]
    assert made == [(name, seed) for seed in script.ROUNDS for name in script.RUNS]
    for row in ROWS:
        assert row["settings"] == script.settings_of(row["run"], row["seed"])
        assert row["curve"][-1]["round"] == script.ROUNDS[row["seed"]]


def test_the_profile_trains_as_the_run_that_it_quotes(script):
    profile = tomllib.loads((ROOT / "conf/instruct-smollm2.toml").read_text())
    run = script.settings_of("ef16", 0)
    for key in run.keys() - {"evaluate-every", "evaluate-examples"}:
        if key in profile:
            assert profile[key] == run[key], key
    assert script.RUNS["ef16"].keys() <= profile.keys()
    assert profile["max-steps"] == run["max-steps"]


def test_the_loss_falls_on_every_domain():
    for row in ROWS:
        first, last = row["curve"][0], row["curve"][-1]
        for key in ("loss", "loss_code", "loss_math", "loss_roleplay"):
            assert last[key] < first[key], (row["run"], row["seed"], key)


def test_error_feedback_ends_at_the_dense_loss_with_fifty_times_fewer_bytes():
    dense, sparse = curve("dense", 0)[-1], curve("ef16", 0)[-1]
    assert sparse["loss"] <= dense["loss"]
    assert dense["mb"] > 50 * sparse["mb"]


def test_a_row_has_the_megabytes_until_each_evaluation(script, tmp_path):
    rows = [
        {"round": 0, "loss": 2.0, "accuracy": 0.5, "seconds": 1},
        {"round": 1, "loss": None, "accuracy": None},
        {"round": 2, "loss": 1.0, "accuracy": 0.75},
    ]
    sent = {"message_bytes_down": 1_000_000, "message_bytes_up": 500_000}
    lines = [json.dumps(row | sent) for row in rows]
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + "\n")
    row = script.row_of("dense", 1, tmp_path, "a GPU")
    assert row["curve"] == [
        {"round": 0, "loss": 2.0, "accuracy": 0.5, "mb": 1.5},
        {"round": 2, "loss": 1.0, "accuracy": 0.75, "mb": 4.5},
    ]
