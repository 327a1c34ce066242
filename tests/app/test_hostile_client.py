"""One hostile client of the digits task, with another fault in each round."""

import json

import numpy as np
from flwr.app import Context, MetricRecord, RecordDict

import client_app
import server_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, payload_of, payload_record

BAD = 3


def garbage(content):
    content["arrays"] = payload_record(b"garbage")


def cut_off(content):
    content["arrays"] = payload_record(payload_of(content["arrays"])[:-9])


def flipped(content):
    payload = bytearray(payload_of(content["arrays"]))
    payload[len(payload) // 2] ^= 0xFF
    content["arrays"] = payload_record(bytes(payload))


def dense(content):
    content["arrays"] = array_record({"a": np.ones(3, np.float32)})


def no_arrays(content):
    del content["arrays"]


def no_metrics(content):
    del content["metrics"]


def says_nan(content):
    metrics = dict(content["metrics"])
    content["metrics"] = MetricRecord({**metrics, "num-examples": float("nan")})


def says_absurd(content):
    metrics = dict(content["metrics"])
    content["metrics"] = MetricRecord({**metrics, "num-examples": 1e300})


FAULTS = {
    garbage: "payload",
    cut_off: "checksum",
    flipped: "checksum",
    dense: "needs flasc_mod",
    no_arrays: "expected one ArrayRecord, got 0",
    no_metrics: "expected one MetricRecord, got 0",
    says_nan: "got nan",
    says_absurd: "1e+300",
}
"""The fault in rounds 1, 2, ..., and the reason that the server gives."""


def hostile(message, context):
    """Run the ClientApp, but corrupt one node's training replies."""
    settings = message.content.config_records.get("config")
    reply = client_app.app(message, context)
    if context.node_config["partition-id"] == BAD and "arrays" in reply.content:
        change = list(FAULTS)[int(settings["server-round"]) - 1]
        change(reply.content)
    return reply


def run(output, app, nodes):
    """Run the app on the first `nodes` of four parts of the data."""
    config = RunConfig().to_dict() | {
        "num-server-rounds": len(FAULTS),
        "lora-rank": 4,
        "local-epochs": 1,
        "fraction-train": 1.0,
        "weighting": "examples",
        "server-optimizer": "fedadam",
        "output-dir": str(output),
    }
    parts = [{"num-partitions": 4}] * nodes
    grid = LocalGrid(app, nodes, run_config=config, node_configs=parts)
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app.app(grid=grid, context=context)
    (folder,) = output.iterdir()
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_hostile_client_changes_nothing_and_is_named(tmp_path):
    attacked = run(tmp_path / "attacked", hostile, 4)
    without = run(tmp_path / "without", client_app.app, 3)
    for row, expected, reason in zip(
        attacked[1:], without[1:], FAULTS.values(), strict=True
    ):
        assert row["replies"] == expected["replies"] == 3
        (failure,) = row["failures"]
        assert failure["client"] == str(BAD)
        assert reason in failure["reason"], failure["reason"]
        for key in ("accuracy", "loss", "server_loss"):
            assert row[key] == expected[key]
    # The run learns: equal results are not trivial.
    assert attacked[-1]["loss"] < attacked[0]["loss"]
