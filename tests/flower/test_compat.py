"""Fails when a Flower release renames or changes a private name that we use."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import FedAvg

from flasc_flwr.flower import compat
from flasc_flwr.flower.compat import (
    FLWR_COMMAND,
    READS_REPLIES,
    ErrorCode,
    SType,
    TaskIdentity,
    aggregate_metricrecords,
    get_all_nested_objects,
    load_app,
    no_object_id_recompute,
    parse_config_args,
    set_metadata,
    skip_unreadable_replies,
    travel,
)


@pytest.fixture
def message():
    TaskIdentity.task_id = TaskIdentity.run_id = 0
    TaskIdentity.node_id = compat.SUPERLINK_NODE_ID
    arrays = ArrayRecord({"a": Array(np.arange(3.0))})
    return Message(RecordDict({"arrays": arrays}), 7, "train")


def test_every_name_exists():
    assert [name for name in compat.__all__ if not hasattr(compat, name)] == []


def test_a_message_travels_whole_and_keeps_its_id(message):
    set_metadata(message, "message_id", "m1")
    arrived = travel(message)
    assert arrived.metadata.message_id == "m1"
    assert arrived.metadata.dst_node_id == 7
    assert arrived.content["arrays"]["a"].numpy().tolist() == [0, 1, 2]


def test_nested_objects_are_the_message_and_all_in_it(message):
    with no_object_id_recompute():
        nested = get_all_nested_objects(message)
    kinds = {type(one).__name__ for one in nested.values()}
    assert {"Message", "RecordDict", "ArrayRecord", "Array"} <= kinds


def test_metrics_are_averaged_by_weight():
    replies = [
        RecordDict({"m": MetricRecord({"num-examples": n, "loss": loss})})
        for n, loss in ((1, 4.0), (3, 0.0))
    ]
    assert aggregate_metricrecords(replies, "num-examples")["loss"] == 1.0


def test_fedavg_has_the_methods_that_read_replies():
    assert all(name in vars(FedAvg) for name in READS_REPLIES)


def test_settings_are_parsed():
    assert parse_config_args(["a=1 b='x'"]) == {"a": 1, "b": "x"}


def test_constants_have_what_we_use():
    assert SType.NUMPY
    for name in (
        "NODE_UNAVAILABLE",
        "MESSAGE_UNAVAILABLE",
        "REPLY_MESSAGE_UNAVAILABLE",
        "CLIENT_APP_RAISED_EXCEPTION",
        "MOD_FAILED_PRECONDITION",
    ):
        assert isinstance(getattr(ErrorCode, name), int), name


def test_an_app_is_loaded_by_name(tmp_path, monkeypatch):
    (tmp_path / "compat_app.py").write_text("app = 'loaded'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_app("compat_app:app", ValueError, tmp_path) == "loaded"


def test_the_flwr_command_runs():
    done = subprocess.run(
        [sys.executable, "-c", FLWR_COMMAND, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lower" in done.stdout


def test_a_reply_that_cannot_be_rebuilt_is_left_out_and_the_others_are_not(message):
    """Flower rebuilds replies while it pulls them, without a guard."""
    from flwr.superlink.grid import http_grid

    set_metadata(message, "message_id", "m1")
    nested = get_all_nested_objects(message)
    good = {key: item.deflate() for key, item in nested.items()}
    broken = {key: data[:-1] + b"\xff" * 9 for key, data in good.items()}
    rebuild = http_grid.inflate_object_from_contents
    with pytest.raises(Exception):  # noqa: B017, PT011 (any kind ends a run)
        rebuild(message.object_id, dict(broken))
    with skip_unreadable_replies():
        ignored = http_grid.inflate_object_from_contents(message.object_id, broken)
        kept = http_grid.inflate_object_from_contents(message.object_id, good)
    assert ignored.has_error() and not ignored.metadata.reply_to_message_id
    assert kept.content["arrays"]["a"].numpy().tolist() == [0, 1, 2]
    assert http_grid.inflate_object_from_contents is rebuild


def test_the_mods_behind_a_mod_are_found():
    def first(message, context, call_next):
        seen.extend(compat.mods_behind(call_next))
        return call_next(message, context)

    def second(message, context, call_next):
        return call_next(message, context)

    seen = []
    app = ClientApp(mods=[first, second])

    @app.train(mods=[fixedclipping_mod])
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    TaskIdentity.task_id = TaskIdentity.run_id = 0
    TaskIdentity.node_id = compat.SUPERLINK_NODE_ID
    message = Message(RecordDict(), 7, "train")
    with contextlib.suppress(Exception):  # clipping finds nothing to clip
        app(message, Context(0, 7, {}, state=RecordDict(), run_config={}))
    assert seen == [second, fixedclipping_mod]
    assert list(compat.mods_behind(print)) == []
