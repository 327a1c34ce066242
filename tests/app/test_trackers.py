"""Trackers: real packages, none of which needs a network here."""

import json
import logging
import struct
import sys
from collections.abc import Mapping

import pytest
from flwr.app import Context, RecordDict
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

import client_app
import server_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.reporting import trackers
from flasc_flwr.app.reporting.summary import failure
from flasc_flwr.app.reporting.trackers import (
    TRACKERS,
    MLflow,
    TrackerError,
    Trackers,
    WeightsAndBiases,
    scalars,
)
from flasc_flwr.flower.local_grid import LocalGrid


def row(number, accuracy):
    return {
        "round": number,
        "accuracy": accuracy,
        "message_bytes_up": 1000 * number,
        "ranks": {"4": 2},
        "failures": [{"reason": "late"}],
    }


SUMMARY = {"ended": "all rounds done", "rounds": 2, "failures": {"late": 2}}


def track(tracker, folder):
    """Tell a tracker of two rounds, and again of the second after resuming."""
    config = RunConfig(lora_rank=3)
    folder.mkdir()
    tracker.start(config, folder, [])
    tracker.log(row(1, None))
    tracker.log(row(2, 0.25))
    again = type(tracker)()
    again.start(config, folder, [row(1, None)])
    again.log(row(2, 0.5))
    again.finish(SUMMARY)


def app(tmp_path, grid=LocalGrid, **settings):
    config = RunConfig().to_dict() | {
        "num-server-rounds": 2,
        "lora-rank": 2,
        "local-epochs": 1,
        "output-dir": str(tmp_path),
        **settings,
    }
    context = Context(
        run_id=7, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app.app(grid=grid(client_app.app, 3, run_config=config), context=context)
    (folder,) = tmp_path.iterdir()
    return folder


class ForbiddenGrid(LocalGrid):
    def get_node_ids(self):
        raise AssertionError("a client was contacted")


class Broken:
    """A tracker that fails at one of its methods."""

    def __init__(self, at):
        self.at, self.told = at, []

    def start(self, config, folder, history):
        self._say("start")

    def log(self, row):
        self._say("log")

    def finish(self, summary):
        self._say("finish")

    def _say(self, what):
        self.told.append(what)
        if what == self.at:
            raise OSError("the server is away")


def test_the_numbers_of_a_row():
    assert scalars(row(2, 0.5)) == {
        "accuracy": 0.5,
        "message_bytes_up": 2000,
        "ranks/4": 2,
        "failures": 1,
    }
    assert "accuracy" not in scalars(row(1, None))


def test_a_run_writes_event_files_that_hold_its_history(tmp_path):
    folder = app(tmp_path, trackers="tensorboard")
    rows = [json.loads(r) for r in (folder / "history.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("accuracy", "loss", "message_bytes_down", "kept_up", "seconds"):
        # Event files hold float32.
        told = {event.step: event.value for event in events.Scalars(name)}
        measured = {r["round"]: r[name] for r in rows if r[name] is not None}
        assert told == pytest.approx(measured, rel=1e-6)
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    assert "| lora-rank | 2 |" in texts["config/text_summary"]
    assert "| ended | all rounds done |" in texts["summary/text_summary"]


def test_tensorboard_shows_each_round_of_a_resumed_run_once(tmp_path):
    track(TRACKERS["tensorboard"](), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("accuracy")] == [(2, 0.5)]
    assert [e.step for e in events.Scalars("message_bytes_up")] == [1, 2]


def test_mlflow_keeps_a_run_in_a_store_beside_it(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    track(MLflow(), tmp_path / "run")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("flasc-flwr").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["lora-rank"] == "3"
    assert run.data.tags["ended"] == "all rounds done"
    assert run.data.metrics["summary/failures/late"] == 2
    told = client.get_metric_history(run.info.run_id, "message_bytes_up")
    assert [(m.step, m.value) for m in told] == [(1, 1000), (2, 2000), (2, 2000)]


def test_wandb_keeps_a_run_in_its_folder_when_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = WeightsAndBiases()
    tracker.start(RunConfig(lora_rank=3), tmp_path, [])
    for told in (row(1, None), row(2, 0.5), row(2, 0.75)):
        tracker.log(told)
    tracker.finish(SUMMARY)
    (path,) = (tmp_path / "wandb").glob(f"offline-run-*-{tmp_path.name}/*.wandb")
    records = list(wandb_records(path))
    (begun,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.run_id) == ("flasc-flwr", tmp_path.name)
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json)}
        for record in records
        for item in record.history.item
    ]
    assert [r["round"] for r in rows if "round" in r] == [1, 2, 2]
    assert [r["accuracy"] for r in rows if "accuracy" in r] == [0.5, 0.75]


def wandb_records(path):
    """Read wandb's own file: a header, then records in LevelDB's log format."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # a block's end that has no room for a record
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_missing_package_is_told_before_any_client_is_contacted(
    tmp_path, monkeypatch, name
):
    for module in list(sys.modules):
        if module.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrackerError, match=rf"'{name}'.*'flasc-flwr\[{name}\]'"):
        app(tmp_path, ForbiddenGrid, trackers=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["tensorbord", "wandb,wandb", "wandb;mlflow", 1])
def test_a_wrong_name_is_told(value):
    with pytest.raises(ConfigError, match="some of 'tensorboard', 'wandb', 'mlflow'"):
        RunConfig.parse({"trackers": value})
    assert RunConfig.parse({"trackers": "wandb, mlflow"}).trackers == "wandb, mlflow"


def test_a_tracker_that_cannot_start_ends_the_run_before_it_begins(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": lambda: Broken("start")})
    with pytest.raises(TrackerError, match="'wandb' cannot be started.*is away"):
        app(tmp_path, ForbiddenGrid, trackers="wandb")
    (folder,) = tmp_path.iterdir()
    ended = json.loads((folder / "summary.json").read_text())["ended"]
    assert ended.startswith("failed: tracker 'wandb' cannot be started")


@pytest.mark.parametrize(
    ("at", "told"),
    [("log", ["start", "log"]), ("finish", ["start", "log", "log", "log", "finish"])],
)
def test_a_tracker_that_fails_later_does_not_lose_the_run(
    tmp_path, monkeypatch, caplog, at, told
):
    broken, whole = Broken(at), Broken(None)
    table: Mapping = {"wandb": lambda: broken, "mlflow": lambda: whole}
    monkeypatch.setattr(trackers, "TRACKERS", table)
    flower = logging.getLogger("flwr")
    monkeypatch.setattr(flower, "propagate", True)
    with caplog.at_level(logging.WARNING, logger="flwr"):
        folder = app(tmp_path, trackers="wandb,mlflow")
    assert "Tracker 'wandb' failed and is told no more" in caplog.text
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 2
    assert broken.told == told
    assert whole.told == ["start", "log", "log", "log", "finish"]


def test_a_run_that_fails_says_so_to_its_trackers(tmp_path, monkeypatch):
    heard = []
    whole = Broken(None)
    whole.finish = heard.append
    monkeypatch.setattr(trackers, "TRACKERS", {"mlflow": lambda: whole})
    with pytest.raises(RuntimeError, match="at least 9"):
        app(tmp_path, trackers="mlflow", **{"min-nodes": 9, "round-timeout": 0.1})
    (told,) = heard
    assert "at least 9" in failure(told)


def test_a_run_may_be_resumed_with_other_trackers():
    first, second = RunConfig(), RunConfig(trackers="tensorboard")
    assert first.shared_by_resumed() == second.shared_by_resumed()


def test_nobody_is_told_where_none_is_named():
    nobody = Trackers.of("")
    nobody.log(row(1, 0.5))
    assert not nobody._trackers
