"""The real ServerApp and ClientApp, in one process."""

import json
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from peft import PeftModel
from transformers import ViTForImageClassification

import client_app
import server_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.reporting.exchanges import exchanges_of
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.methods.trainable import SUPPORT
from flasc_flwr.flower.compat import get_all_nested_objects
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint import CheckpointError
from flasc_flwr.flower.state.checkpoint_files import read
from flasc_flwr.flower.wire import payload_of
from tests.flower.apps import RecordingGrid


class ForbiddenGrid(LocalGrid):
    def get_node_ids(self):
        raise AssertionError("a client was contacted")


def run(tmp_path, grid=None, **overrides):
    config = RunConfig().to_dict() | {
        "num-server-rounds": 2,
        "lora-rank": 4,
        "local-epochs": 1,
        "output-dir": str(tmp_path),
        **{name.replace("_", "-"): value for name, value in overrides.items()},
    }
    grid = grid or LocalGrid(client_app.app, 4, run_config=config)
    context = Context(
        run_id=77, node_id=0, node_config={}, state=RecordDict(), run_config=config
    )
    server_app.app(grid=grid, context=context)
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    history = [
        json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()
    ]
    return SimpleNamespace(folder=folder, summary=summary, history=history)


def test_a_run_leaves_all_its_results(tmp_path):
    result = run(tmp_path, fraction_evaluate=0.5)
    config = tomllib.loads((result.folder / "config.toml").read_text())
    assert RunConfig.parse(config).lora_rank == 4
    assert [row["round"] for row in result.history] == [0, 1, 2]
    for row in result.history:
        for key in ("accuracy", "loss", "server_accuracy", "seconds"):
            assert row[key] is not None, key
    assert result.history[2]["clients_accuracy"] is not None
    assert result.history[2]["train_steps"] > 0
    for key in ("payload_bytes_down", "payload_bytes_up") + (
        "message_bytes_down",
        "message_bytes_up",
    ):
        assert result.summary[key] == sum(row[key] for row in result.history) > 0
    assert result.summary["ended"] == "all rounds done"
    sent = result.summary["message_bytes_down"] + result.summary["message_bytes_up"]
    # 2 rounds of 2 clients train, both ways, and 2 rounds of 2 evaluate, one way.
    dense = (2 * 2 * 2 + 2 * 2) * 4 * result.summary["adapter_parameters"]
    assert result.summary["dense_float32_bytes"] == dense
    assert result.summary["reduction_vs_dense_float32"] == dense / sent


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Return the results of a run with the default settings."""
    return run(tmp_path_factory.mktemp("default"))


def test_the_adapter_loads_in_peft_and_is_what_was_evaluated(result):
    public, _, test = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    model = PeftModel.from_pretrained(backbone, str(result.folder / "adapter"))
    outcome = evaluate_model(model, Examples.of(test), RunConfig())
    assert outcome.accuracy == pytest.approx(result.summary["accuracy"])
    assert outcome.loss == pytest.approx(result.summary["loss"], rel=1e-5)


def test_the_adapter_names_a_backbone_that_loads(result):
    config = json.loads((result.folder / "adapter/adapter_config.json").read_text())
    backbone = ViTForImageClassification.from_pretrained(
        config["base_model_name_or_path"]
    )
    PeftModel.from_pretrained(backbone, str(result.folder / "adapter"))


def test_a_run_repeats_itself(result, tmp_path):
    first, again = (
        [(row["loss"], row["payload_bytes_up"]) for row in each.history]
        for each in (result, run(tmp_path))
    )
    assert first == again


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_client_and_server_optimizers_can_be_chosen(tmp_path, optimizer):
    result = run(tmp_path, client_optimizer=optimizer, server_optimizer="fedadam")
    assert np.isfinite(result.history[2]["loss"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("upload-density", 0),
        ("download-density", 1.5),
        ("upload-density", "abc"),
        ("method", "magic"),
        ("lora-rank", 0),
        ("no-such-key", 1),
    ],
)
def test_a_wrong_config_stops_before_any_client_is_contacted(tmp_path, key, value):
    grid = ForbiddenGrid(client_app.app, 2)
    with pytest.raises(ConfigError, match=f"{key} .*got {value!r}"):
        run(tmp_path, grid, **{key: value})
    assert not list(tmp_path.iterdir())


def test_a_failing_run_leaves_its_reason(tmp_path):
    with pytest.raises(RuntimeError, match="num-supernodes"):
        run(tmp_path, min_nodes=9, round_timeout=0.1)
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert "4 of at least 9 nodes" in summary["ended"]
    assert summary["ended"].startswith("failed: ")


def test_what_was_measured_is_kept_where_a_run_fails_later(tmp_path):
    class Stolen(LocalGrid):
        def push_messages(self, messages):
            messages = list(messages)
            if messages[0].metadata.group_id == "2":
                raise OSError("the device is gone")
            return super().push_messages(messages)

    config = RunConfig().to_dict() | {"lora-rank": 4}
    with pytest.raises(OSError, match="is gone"):
        run(tmp_path, Stolen(client_app.app, 4, run_config=config))
    found = read_run(*tmp_path.iterdir())
    assert (found.status, found.ended) == ("failed", "failed: the device is gone")
    assert [row["round"] for row in found.history] == [0, 1]
    assert found.summary["rounds"] == 1
    by_round = exchanges_of(found)
    for row in found.history:
        down, up = map(sum, zip(*by_round[row["round"]].values(), strict=True))
        assert (down, up) == (row["message_bytes_down"], row["message_bytes_up"])
    assert sum(up for _, up in by_round[1].values()) > 0


def test_a_run_in_which_nobody_trained_fails(tmp_path):
    config = RunConfig().to_dict() | {"lora-rank": 4}
    nowhere = {"num-partitions": "two"}
    grid = LocalGrid(
        client_app.app, 2, run_config=config, node_configs=[nowhere, nowhere]
    )
    with pytest.raises(RuntimeError, match="all 2 clients .* num-partitions .* 'two'"):
        run(tmp_path, grid)
    (folder,) = tmp_path.iterdir()
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ended"].startswith("failed: ") and "'two'" in summary["ended"]
    assert "failed for the same reason" in summary["ended"]
    assert summary["skipped_rounds"] == 1


def test_a_node_without_a_partition_says_how_to_start_it(tmp_path):
    config = RunConfig().to_dict() | {"num-server-rounds": 1, "lora-rank": 4}
    grid = LocalGrid(
        client_app.app,
        2,
        run_config=config,
        node_configs=[{"num-partitions": "two"}, {}],
    )
    result = run(tmp_path, grid, num_server_rounds=1)
    (failure,) = result.history[1]["failures"]
    assert "got 0 and 'two'" in failure["reason"]
    assert "partition-id=0 num-partitions=2" in failure["reason"]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_runs_by_name(tmp_path, method):
    config = {"method": method}
    remembers = METHODS[method].error_feedback != "none"
    if remembers:  # for devices that take part in every round; their density stays
        config |= {"fraction_train": 1.0}
    else:
        config |= {"download_density_decay": 0.5, "density_decay_every": 2}
    settings = {k.replace("_", "-"): v for k, v in config.items()}
    grid = RecordingGrid(
        client_app.app, 4, run_config=RunConfig(lora_rank=4).to_dict() | settings
    )
    result = run(tmp_path, grid, num_server_rounds=4, **config)
    rows = result.history[1:]
    for way, messages in (("down", grid.down), ("up", grid.up)):
        counted = sum(row[f"payload_bytes_{way}"] for row in rows)
        if remembers:  # tests/flower/feedback counts these: they are in envelopes
            assert counted > 0
            continue
        sent = sum(
            len(payload_of(record))
            for message in messages
            for record in message.content.array_records.values()
        )
        assert counted == sent > 0
    assert all(not row["failures"] and row["replies"] > 0 for row in rows)
    assert rows[-1]["loss"] < result.history[0]["loss"]
    if method in KEPT:
        kept = [rows[i]["kept_down"] for i in (1, 2)]
        assert kept == pytest.approx(KEPT[method], abs=1e-3)
    if METHODS[method].trainable == (SUPPORT,):
        # Only downloaded entries are trained: the upload is not larger.
        for row in rows[2:]:
            assert row["kept_up"] <= row["kept_down"] < 1


KEPT = {
    "dense": [1.0, 1.0],
    "flasc": [0.25, 0.125],
    "sparse-adapter": [0.25, 0.125],
    "fedselect": [0.25, 0.125],
    "adapter-lth": [1.0, 0.5],
    "rolora": [1.0, 1.0],
    "full": [1.0, 1.0],
    "linear": [1.0, 1.0],
}
"""The fraction sent in rounds 2 and 3, with densities halved every two rounds."""


def test_what_flora_merged_is_in_the_saved_adapter(tmp_path):
    result = run(tmp_path, method="flora", lora_alpha=8.0)
    public, _, test = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    model = PeftModel.from_pretrained(backbone, str(result.folder / "adapter"))
    outcome = evaluate_model(model, Examples.of(test), RunConfig())
    assert outcome.accuracy == pytest.approx(result.summary["accuracy"])
    assert outcome.loss == pytest.approx(result.summary["loss"], rel=1e-4)


def test_tiers_are_evaluated_one_by_one(tmp_path):
    result = run(tmp_path, method="hetlora-tiers", lora_rank=8)
    row = result.history[2]
    assert len({row["loss"], row["tier_0_loss"], row["tier_1_loss"]}) == 3
    # The strongest tier receives the full server vector.
    assert row["loss"] == row["server_loss"]


def test_ranks_are_assigned_by_the_servers_own_data(tmp_path):
    result = run(tmp_path, method="replication", low_rank=2, high_rank_fraction=0.25)
    first, second = result.history[1:]
    assert first["ranks"] == {"2": 4} and first["replies"] == 4
    assert sum(second["ranks"].values()) == 2
    assert first["low_rank_accuracy"] is not None


def test_a_stopped_run_resumes_in_its_folder(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    uninterrupted = run(tmp_path / "a", num_server_rounds=4, checkpoint_every=1)
    run(tmp_path / "b", num_server_rounds=2, checkpoint_every=1)
    resumed = run(
        tmp_path / "b", num_server_rounds=4, resume="latest", checkpoint_every=1
    )
    assert [row["round"] for row in resumed.history] == [0, 1, 2, 3, 4]
    for key in ("accuracy", "loss", "server_loss", "rounds", "payload_bytes_up"):
        assert resumed.summary[key] == uninterrupted.summary[key], key
    config = tomllib.loads((resumed.folder / "config.toml").read_text())
    assert config["num-server-rounds"] == 4
    # The final vectors are identical.
    ends = [read(next((tmp_path / n).iterdir()) / "checkpoints") for n in "ab"]
    np.testing.assert_array_equal(ends[0].state.vector, ends[1].state.vector)


def test_a_run_resumes_only_with_its_settings(tmp_path):
    folder = run(tmp_path, checkpoint_every=1).folder
    files = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    with pytest.raises(CheckpointError, match="has batch-size = 16, this run has 8"):
        run(tmp_path, resume="latest", batch_size=8)
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == files
    with pytest.raises(CheckpointError, match="no run in .* has a checkpoint"):
        run(tmp_path, resume="latest", output_dir=str(tmp_path / "elsewhere"))


def test_a_run_that_ends_early_says_why(tmp_path):
    result = run(tmp_path, num_server_rounds=20, stop_accuracy=0.2, export_every=1)
    assert "reached the target 0.2" in result.summary["ended"]
    last = result.summary["rounds"]
    assert last < 20
    assert (result.folder / f"adapter-round-{last:04d}/adapter_config.json").is_file()


def test_a_run_reports_the_bytes_that_travelled(tmp_path):
    """Payload bytes are the sum of len(payload); message bytes, of full messages."""
    config = RunConfig(lora_rank=4).to_dict()
    grid = RecordingGrid(client_app.app, 4, run_config=config)
    summary = run(tmp_path, grid).summary
    for way, messages in (("down", grid.down), ("up", grid.up)):
        carried = [m for m in messages if "arrays" in m.content.array_records]
        payloads = [len(payload_of(m.content["arrays"])) for m in carried]
        assert len(payloads) == 2 * 2
        assert summary[f"payload_bytes_{way}"] == sum(payloads)
        sizes = [
            sum(len(part.deflate()) for part in get_all_nested_objects(m).values())
            for m in messages
        ]
        assert summary[f"message_bytes_{way}"] == sum(sizes)
