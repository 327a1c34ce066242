"""Cohorts with skewed data and unequal sizes never meet the default bounds."""

import json
from pathlib import Path

import pytest

from flasc_flwr.app.runs.local_run import run_locally

ROOT = Path(__file__).parents[2]
OFF = {"update-norm-ratio": 0.0, "max-examples-ratio": 0.0}


def run(tmp_path, **settings):
    """Return the history, without times, and the adapter, as bytes."""
    skewed = {
        "partitioner": "dirichlet",
        "dirichlet-alpha": 0.1,
        "fraction-train": 1.0,
        "fraction-evaluate": 1.0,
        "weighting": "examples",
        "num-server-rounds": 2,
        "output-dir": str(tmp_path),
    }
    run_locally(ROOT, skewed | settings, 20)
    (folder,) = tmp_path.iterdir()
    lines = (folder / "history.jsonl").read_text().splitlines()
    rows = [
        {key: v for key, v in json.loads(line).items() if "seconds" not in key}
        for line in lines
    ]
    return rows, (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["flasc", "hetlora-tiers", "hetlora"])
def test_the_default_bounds_change_nothing(tmp_path, method):
    bounded = run(tmp_path / "bounded", method=method)
    assert [row["replies"] for row in bounded[0][1:]] == [20, 20]
    assert not any(row["failures"] for row in bounded[0])
    assert bounded == run(tmp_path / "free", method=method, **OFF)


def test_norms_that_differ_most_are_not_rejected(tmp_path):
    """FedSelect's updates: next to nothing at most clients, more at a few."""
    rows, _ = run(tmp_path / "run", method="fedselect", seed=1)
    assert [row["replies"] for row in rows[1:]] == [20, 20]
    assert not any(row["failures"] for row in rows)
