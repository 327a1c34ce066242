"""Typing errors in a device's settings are refused by the device, not ignored."""

import pytest

from flasc_flwr.flower.device_budget import device_keys
from flasc_flwr.flower.node_config import (
    NodeConfigError,
    near_miss,
    refuse_near_misses,
)
from flasc_flwr.flower.wire import CONTROL
from tests.flower.apps import RecordingGrid, client_app
from tests.flower.device import ask, content
from tests.flower.test_strategy import start
from tests.plug_in.numpy_app import client_app as plain_app
from tests.plug_in.numpy_app import step


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("upload_density", "upload-density"),
        ("Upload-Density", "upload-density"),
        ("uploaddensity", "upload-density"),
        ("upload-densty", "upload-density"),
        ("upload-densities", None),
        ("lora_rank", "lora-rank"),
        ("lora-ranks", "lora-rank"),
        ("rank", None),
        ("tiers", "tier"),
        ("time", None),
        ("strict_budget", "strict-budget"),
        ("max-entires", "max-entries"),
        ("maxdownloadbytes", "max-download-bytes"),
        ("learning-rate", None),
        ("partition-id", None),
        ("data-path", None),
        ("x", None),
        ("", None),
    ],
)
def test_row_12_near_misses_of_our_keys_are_named(key, meant):
    assert near_miss(key, device_keys()) == meant
    if meant is None:
        refuse_near_misses([key], device_keys())
        return
    with pytest.raises(NodeConfigError, match=f"{key} is .*, did you mean {meant}\\?"):
        refuse_near_misses([key], device_keys())


def test_row_12_no_key_of_ours_is_refused():
    refuse_near_misses(device_keys(), device_keys())
    for key in device_keys():
        others = device_keys() - {key}
        assert near_miss(key, others) is None, key


def test_row_12_a_device_with_a_typing_error_does_not_take_part():
    configs = [{"upload_density": 0.01}, {}, {"camera": "left"}]
    grid = RecordingGrid(client_app(), 3, node_configs=configs)
    strategy, _, _ = start(grid=grid, rounds=1, clients=3)
    row = strategy.state.history[1]
    assert row["replies"] == 2
    (waiting,) = row["waiting"]
    assert waiting["node"] == 1
    assert waiting["reason"] == (
        "upload_density is not a key of --node-config, did you mean upload-density?"
    )


def test_row_12_the_run_says_so_if_no_device_can_take_part():
    grid = RecordingGrid(client_app(), 2, node_configs=[{"lora_rank": 2}] * 2)
    with pytest.raises(RuntimeError, match="2 of them because: lora_rank is not a key"):
        start(grid=grid, rounds=1, clients=2)


def test_row_12_sparse_transport_devices_refuse_them_too():
    with pytest.raises(NodeConfigError, match="did you mean max-entries"):
        ask(content(), plain_app(step), **{"max-entires": 3})


def test_row_12_values_of_a_devices_settings_are_not_in_the_error():
    with pytest.raises(NodeConfigError) as raised:
        ask({CONTROL: content()[CONTROL]}, client_app(), **{"lora_rank": 77})
    assert "77" not in str(raised.value)
