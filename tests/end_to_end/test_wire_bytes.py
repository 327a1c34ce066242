"""A deployment without TLS: what the SuperLink counts, and what we count."""

import json
import sys

import pytest

from tests.end_to_end.processes import Flower, results
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = pytest.mark.slow

ROUNDS = 2
PER_MESSAGE = 1200
"""Bytes that the SuperLink may count around a message: docs/deploy.md."""


def test_the_superlink_counts_what_we_count(tmp_path):
    flower = Flower(tmp_path / "flwr")
    flower.env |= {"HF_HOME": str(tmp_path / "cache")}
    model = make_model(tmp_path / "model", hidden=512)
    test = make_rows(tmp_path / "server" / "test.csv", 16, seed=9)
    config = run_config(
        model,
        test.parent,
        tmp_path / "runs",
        f"num-server-rounds={ROUNDS} lora-rank=256 download-density='1/16' "
        "upload-density='1/16' value-format='bfloat16'",
    )

    def node(number):
        rows = make_rows(tmp_path / f"node-{number}" / "train.csv", 16, seed=number)
        return flower.supernode(
            f"node-{number}", f'partition-id={number} data-path="{rows}"'
        )

    disable = "--disable-runtime-dependency-installation"
    with flower.superlink(disable) as connection, node(0), node(1):
        output = flower.run("flwr", "run", ".", connection, "--stream", *config)
        folder, summary, history = results(tmp_path / "runs")
        assert summary["ended"] == "all rounds done", output
        assert flower.last_run(connection)["status"] == "finished:completed"
        command = ("-m", "flasc_flwr.app.cli", "wire-bytes", str(folder), connection)
        printed = flower.run(sys.executable, *command)
    print(printed)
    assert [row["replies"] for row in history] == [0] + [2] * ROUNDS
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["adapter_parameters"] > 1_000_000
    wire = 0
    for way in ("down", "up"):
        ours, theirs = summary[f"message_bytes_{way}"], summary[f"wire_bytes_{way}"]
        # Two introductions, and two messages a round.
        messages = 2 * (1 + ROUNDS)
        print(f"{way}: {(theirs - ours) / messages:.0f} bytes more a message")
        assert abs(theirs - ours) < 0.005 * ours + PER_MESSAGE * messages
        wire += theirs
    # 4 bytes a value, without any message around them.
    assert summary["dense_float32_bytes"] > 20 * wire
