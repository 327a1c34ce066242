"""The digits task with bytes as the budget: every payload, where it travels."""

import json

import numpy as np
import pytest
from flwr.app import Context, RecordDict

import client_app
import server_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.flower.state.checkpoint import CheckpointError
from flasc_flwr.flower.wire import payload_of
from tests.flower.apps import RecordingGrid


def run(tmp_path, own=({}, {}, {}, {}), **settings):
    """Run the digits task; return the grid, and the rows of the history."""
    config = RunConfig().to_dict() | {
        "num-server-rounds": 3,
        "lora-rank": 8,
        "local-epochs": 1,
        "fraction-train": 1.0,
        "output-dir": str(tmp_path),
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    grid = RecordingGrid(
        client_app.app, len(own), run_config=config, node_configs=list(own)
    )
    context = Context(
        run_id=77, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app.app(grid=grid, context=context)
    folder = max(tmp_path.iterdir(), key=lambda each: each.name)
    lines = (folder / "history.jsonl").read_text().splitlines()
    return grid, [json.loads(line) for line in lines], folder


def payloads(messages, node=None):
    """Return the payloads of messages that train, of a node or of all."""
    found = []
    for message in messages:
        meta = message.metadata
        sender = meta.src_node_id if meta.reply_to_message_id else meta.dst_node_id
        if "arrays" in message.content and node in (None, sender):
            found.append(payload_of(message.content["arrays"]))
    return found


def test_a_device_with_4000_bytes_sends_4000_and_no_more(tmp_path):
    own = [{"upload-bytes": 4000}, {"upload-bytes": 900, "lora-rank": 4}, {}, {}]
    grid, rows, _ = run(tmp_path, own, upload_density=1.0)
    sent = [len(payload) for payload in payloads(grid.up, 1)]
    assert len(sent) == 3
    assert all(0.97 * 4000 <= size <= 4000 for size in sent)
    small = [len(payload) for payload in payloads(grid.up, 2)]
    assert all(0.97 * 900 <= size <= 900 for size in small)
    free = [len(payload) for payload in payloads(grid.up, 3)]
    assert min(free) > 4000
    for row, size in zip(rows[1:], map(len, payloads(grid.up, 3)), strict=True):
        assert not row["failures"]
        assert row["largest_payload_up"] >= size
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("values", ["auto", "int4", "step"])
def test_the_runs_bytes_each_way(tmp_path, values):
    grid, rows, folder = run(
        tmp_path, download_bytes=5000, upload_bytes=2500, value_format=values
    )
    down, up = payloads(grid.down), payloads(grid.up)
    assert all(0.97 * 5000 <= len(payload) <= 5000 for payload in down)
    assert all(0.97 * 2500 <= len(payload) <= 2500 for payload in up)
    for row in rows[1:]:
        assert 0.97 * 5000 <= row["largest_payload_down"] <= 5000
        assert 0.97 * 2500 <= row["largest_payload_up"] <= 2500
        assert 0 < row["kept_up"] < row["kept_down"] < 1
    config = read_run(folder).config
    assert (config.download_bytes, config.upload_bytes) == (5000, 2500)


def test_a_resumed_run_has_the_same_bytes(tmp_path):
    settings = {"upload_bytes": 2500, "download_bytes": 5000, "checkpoint_every": 1}
    _, rows, _ = run(tmp_path / "whole", **settings)
    (tmp_path / "parts").mkdir()
    _, _, folder = run(tmp_path / "parts", **settings, num_server_rounds=2)
    _, resumed, _ = run(tmp_path / "parts", **settings, resume=str(folder))
    for ours, theirs in zip(resumed, rows, strict=True):
        for key in ("kept_up", "kept_down", "payload_bytes_up", "loss"):
            assert ours[key] == pytest.approx(theirs[key]), (ours["round"], key)
    with pytest.raises(CheckpointError, match="upload-bytes = 2500, this run has 2600"):
        run(
            tmp_path / "parts",
            **settings | {"upload_bytes": 2600},
            resume=str(folder),
            num_server_rounds=4,
        )


def test_too_few_bytes_end_the_run_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match=r"upload-bytes must be >= \d+ for this adap"):
        run(tmp_path, upload_bytes=20)


def test_an_update_that_fits_is_sent_as_its_density_says(tmp_path):
    grid, _, _ = run(tmp_path, upload_bytes=1 << 20, upload_density=0.25)
    size = read_layout(payloads(grid.down)[0]).size
    for payload in payloads(grid.up):
        assert decode(payload, size).kept == int(np.floor(size / 4))
