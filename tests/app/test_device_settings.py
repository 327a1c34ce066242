"""The app's own keys of a ``--node-config``: typing errors do not change the data."""

import logging

import pytest

import client_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.node import check_node_config, node_keys
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import run

SMALL = RunConfig(lora_rank=4, local_epochs=1).to_dict()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("data_path", "data-path"),
        ("datapath", "data-path"),
        ("data-pth", "data-path"),
        ("num_partitions", "num-partitions"),
        ("partition_id", "partition-id"),
        ("partiton-id", "partition-id"),
        ("upload_density", "upload-density"),
    ],
)
def test_row_12_the_app_refuses_a_typing_error(tmp_path, key, meant):
    configs = [{key: "/home/anna/secret.csv"}, {}, {}]
    grid = LocalGrid(client_app.app, 3, run_config=SMALL, node_configs=configs)
    row = run(tmp_path, grid, num_server_rounds=1).history[1]
    (waiting,) = row["waiting"]
    said = f"{key} is not a key of --node-config, did you mean {meant}?"
    assert waiting == {"node": 1, "reason": said}


@pytest.mark.parametrize("key", ["max-upload", "density", "camera", "rank"])
def test_row_12_the_app_refuses_keys_that_nobody_reads(tmp_path, key):
    """A device whose owner wrote `max-upload` would send more than its owner wanted."""
    grid = LocalGrid(
        client_app.app, 3, run_config=SMALL, node_configs=[{key: 3}, {}, {}]
    )
    row = run(tmp_path, grid, num_server_rounds=1).history[1]
    (waiting,) = row["waiting"]
    assert waiting["node"] == 1
    said = f"{key} is not a key of --node-config, allowed are data-path, download-bytes"
    assert waiting["reason"].startswith(said)


def test_row_12_every_key_of_the_page_is_known():
    """The table of docs/deploy.md lists the keys that a device can set."""
    page = client_app.__file__.replace("client_app.py", "docs/deploy.md")
    with open(page) as file:
        text = file.read().partition("## A device's own settings")[2]
    table = text.partition("\n\n## ")[0]
    named = {key for key in node_keys() if f"`{key}`" in table}
    assert named == node_keys()
    check_node_config(dict.fromkeys(["partition-id", "num-partitions"], 1))


def test_row_12_a_run_says_which_settings_arrived(tmp_path, caplog):
    """Whoever reads it sees that Flower's parser has dropped one."""
    caplog.set_level(logging.INFO, "flwr")
    run(tmp_path, num_server_rounds=1, seed=7)
    (line,) = [m for m in caplog.messages if m.startswith("Settings that differ")]
    assert "seed=7" in line and "lora-rank=4" in line
    assert "client-learning-rate" not in line
