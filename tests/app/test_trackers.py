"""Trackers: real packages, none of which needs a network here."""

import json
import logging
import os
import struct
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import ModuleType

import mlflow
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from flwr.app import Context, RecordDict
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

import client_app
import server_app
from flasc_flwr.app.config import TRACKERS, ConfigError, RunConfig
from flasc_flwr.app.reporting.services import (
    MLflow,
    TensorBoard,
    Tracker,
    WeightsAndBiases,
    scalars,
)
from flasc_flwr.app.reporting.summary import failure
from flasc_flwr.app.reporting.trackers import OWN_CLASS, TrackerError, Trackers
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


def track(kind, name, folder, interrupt=lambda: None):
    """Log two rounds, and the second one again after resuming."""
    config = RunConfig(lora_rank=3)
    folder.mkdir()
    tracker = kind(name)
    tracker.start(config, folder, [])
    tracker.log(row(1, None))
    tracker.log(row(2, 0.25))
    interrupt()
    again = kind(name)
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


class Recorder(GeneralTracker):
    """A tracker of accelerate's that keeps its calls and may fail at one of them."""

    name, requires_logging_directory, tracker = "recorder", False, None
    main_process_only = False

    def __init__(self, calls, at, **options):
        super().__init__()
        self.calls, self.at = calls, at

    def start(self):
        self._called("start")

    def store_init_configuration(self, values):
        self._called("config", values)

    def log(self, values, step=None):
        self._called("log", values, step)

    def finish(self):
        self._called("finish")

    def _called(self, what, *arguments):
        self.calls.append((what, *arguments))
        if what == self.at:
            raise OSError("the server is away")


@pytest.fixture
def replace(monkeypatch):
    """Return a function that puts a recorder in the place of a service: its calls."""

    def replaced(name, fails_at=None):
        calls = []
        recorder = partial(Recorder, calls, fails_at)
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, recorder)
        return calls

    return replaced


def test_the_numbers_of_a_row():
    assert scalars(row(2, 0.5)) == {
        "accuracy": 0.5,
        "message_bytes_up": 2000,
        "ranks/4": 2,
        "failures": 1,
    }
    assert "accuracy" not in scalars(row(1, None))
    hostile = {"failures": {"../<a>'$\n": 1}}
    assert scalars(hostile) == {"failures/____a____": 1}


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
    track(TensorBoard, "tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("accuracy")] == [(2, 0.5)]
    assert [e.step for e in events.Scalars("message_bytes_up")] == [1, 2]


@pytest.fixture
def no_mlflow_settings(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_mlflow_keeps_a_run_in_a_store_beside_it(
    tmp_path, monkeypatch, no_mlflow_settings
):
    def interrupt():
        mlflow.end_run()
        monkeypatch.delenv("MLFLOW_TRACKING_URI")

    track(MLflow, "mlflow", tmp_path / "run", interrupt)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("flasc-flwr").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["lora-rank"] == "3"
    assert run.data.tags["ended"] == "all rounds done"
    assert run.data.metrics["summary/failures/late"] == 2
    told = client.get_metric_history(run.info.run_id, "message_bytes_up")
    assert [(m.step, m.value) for m in told] == [(1, 1000), (2, 2000), (2, 2000)]


def test_mlflow_shows_that_a_run_failed_for_any_reason(tmp_path, no_mlflow_settings):
    tracker = MLflow("mlflow")
    tracker.start(RunConfig(), tmp_path, [])
    reasons = {"KeyError: 'a' in ../../x//y\n": 1}
    tracker.finish({"ended": "failed: no <disk>", "rounds": 0, "failures": reasons})
    client = MlflowClient(f"sqlite:///{tmp_path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("flasc-flwr").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    assert run.data.tags["ended"] == "failed: no <disk>"


def test_wandb_keeps_a_run_in_its_folder_when_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = WeightsAndBiases("wandb")
    tracker.start(RunConfig(lora_rank=3), tmp_path, [])
    for told in (row(1, None), row(2, 0.5), row(2, 0.75)):
        tracker.log(told)
    tracker.finish(SUMMARY)
    (path,) = (tmp_path / "wandb").glob(f"offline-run-*-{tmp_path.name}/*.wandb")
    records = list(wandb_records(path))
    (begun,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.run_id) == ("flasc-flwr", tmp_path.name)
    settings = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records
        for item in record.config.update
    }
    assert settings["lora-rank"] == 3
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


def test_any_service_has_the_config_the_rounds_and_the_summary(tmp_path, replace):
    calls = replace("aim")
    folder = app(tmp_path, trackers="aim")
    rows = [json.loads(r) for r in (folder / "history.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert calls[0] == ("start",)
    assert (calls[1][0], calls[1][1]["lora-rank"]) == ("config", 2)
    assert calls[2:5] == [("log", scalars(r), r["round"]) for r in rows]
    assert calls[5] == ("log", scalars({"summary": summary}), 2)
    assert calls[6:] == [("finish",)]


@pytest.mark.parametrize("name", TRACKERS)
def test_each_name_is_one_of_accelerates_trackers(name):
    assert name in LOGGER_TYPE_TO_CLASS


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_stops_the_run_before_any_client_is_contacted(
    tmp_path, monkeypatch, name
):
    for module in list(sys.modules):
        if module.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrackerError, match=rf"'{name}'.*pip install .*{name}"):
        app(tmp_path, ForbiddenGrid, trackers=name)
    assert not list(tmp_path.iterdir())


def test_three_packages_have_an_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert set(OWN_CLASS) == set(extras) & set(TRACKERS)


@pytest.mark.parametrize("value", ["tensorbord", "wandb,wandb", "wandb;mlflow", 1])
def test_a_wrong_name_is_refused(value):
    with pytest.raises(ConfigError, match="trackers.*'tensorboard', 'wandb', 'mlflow'"):
        RunConfig.parse({"trackers": value})
    assert RunConfig.parse({"trackers": "wandb, mlflow"}).trackers == "wandb, mlflow"


def test_a_tracker_that_cannot_start_ends_the_run_before_it_begins(tmp_path, replace):
    replace("aim", "start")
    with pytest.raises(TrackerError, match="'aim'.*the server is away"):
        app(tmp_path, ForbiddenGrid, trackers="aim")
    (folder,) = tmp_path.iterdir()
    ended = json.loads((folder / "summary.json").read_text())["ended"]
    assert ended.startswith("failed: tracker 'aim'")


@pytest.mark.parametrize(
    ("at", "expected"),
    [("log", "start config log"), ("finish", "start config log log log log finish")],
)
def test_a_tracker_that_fails_later_does_not_lose_the_run(
    tmp_path, replace, monkeypatch, caplog, at, expected
):
    broken, sound = replace("aim", at), replace("trackio")
    flower = logging.getLogger("flwr")
    monkeypatch.setattr(flower, "propagate", True)
    with caplog.at_level(logging.WARNING, logger="flwr"):
        folder = app(tmp_path, trackers="aim,trackio")
    assert "Tracker aim failed and was disabled" in caplog.text
    assert "trackio failed" not in caplog.text
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 2
    assert [what for what, *_ in broken] == expected.split()
    assert [what for what, *_ in sound] == (
        ["start", "config", "log", "log", "log", "log", "finish"]
    )


def test_the_trackers_of_a_run_that_fails_get_the_reason(
    tmp_path, replace, monkeypatch
):
    replace("aim")
    summaries = []
    monkeypatch.setattr(Tracker, "finish", lambda self, s: summaries.append(s))
    with pytest.raises(RuntimeError, match="at least 9"):
        app(tmp_path, trackers="aim", **{"min-nodes": 9, "round-timeout": 0.1})
    (summary,) = summaries
    assert "at least 9" in failure(summary)


def test_a_run_may_be_resumed_with_other_trackers():
    first, second = RunConfig(), RunConfig(trackers="tensorboard")
    assert first.shared_by_resumed() == second.shared_by_resumed()


def test_no_name_is_no_tracker():
    nobody = Trackers.of("")
    nobody.log(row(1, 0.5))
    assert not nobody._trackers
