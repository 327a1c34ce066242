"""What every client would refuse is found before the first round."""

import numpy as np
import pytest

import client_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import run
from tests.app.tiny import texts, write_jsonl

SMALL = RunConfig(lora_rank=4, local_epochs=1).to_dict()


@pytest.fixture
def trained(monkeypatch):
    """Note the rounds in which a client is asked to train."""
    rounds = []

    def grid(nodes, settings, node_configs=None):
        def app(message, context):
            if "config" in message.content:
                rounds.append(message.content["config"]["server-round"])
            return client_app.app(message, context)

        config = SMALL | {k.replace("_", "-"): v for k, v in settings.items()}
        return LocalGrid(app, nodes, run_config=config, node_configs=node_configs)

    grid.rounds = rounds
    return grid


def refused(tmp_path, trained, message, nodes=4, node_configs=None, **settings):
    grid = trained(nodes, settings, node_configs)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, grid, **settings)
    assert trained.rounds == []
    (folder,) = (f for f in tmp_path.iterdir() if (f / "summary.json").exists())
    assert read_run(folder).status == "failed"


def test_row_16_more_clients_than_rows_are_found_at_the_start(tmp_path, trained):
    parts = [{"num-partitions": 1_000_000}] * 4
    wanted = "num-partitions must be <= [0-9]+, the number of rows, got 1000000"
    refused(tmp_path, trained, wanted, node_configs=parts, partitioner="iid")


def test_row_16_a_partitioner_that_does_not_fit_the_task(tmp_path, trained, gpt2):
    data = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    settings = {"task": "causal-lm", "model": str(gpt2), "dataset": str(data)}
    settings |= {
        "max_length": 16,
        "test_split": "train[4:]",
        "output_dir": str(tmp_path / "runs"),
    }
    (tmp_path / "runs").mkdir()
    message = "partitioner must be iid or natural-id with task 'causal-lm'"
    refused(tmp_path / "runs", trained, message, **settings)


def test_row_16_natural_id_without_a_column_of_users(tmp_path, trained):
    message = "user-column must name a column with partitioner 'natural-id'"
    refused(tmp_path, trained, message, partitioner="natural-id")


def text_settings(bert, tmp_path, **settings):
    data = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    out = tmp_path / "runs"
    out.mkdir()
    return {
        "task": "text-classification",
        "model": str(bert),
        "dataset": str(data),
        "test_split": "train[4:]",
        "max_length": 16,
        "output_dir": str(out),
    } | settings


@pytest.mark.parametrize("partitioner", ["iid", "natural-id"])
def test_row_16_a_column_of_users_that_is_not_there(
    tmp_path, trained, bert, partitioner
):
    settings = text_settings(
        bert, tmp_path, partitioner=partitioner, user_column="owner"
    )
    message = "user-column must be one of the columns .* got 'owner'"
    refused(tmp_path / "runs", trained, message, **settings)


def test_row_12_users_that_are_not_clients_are_said(tmp_path, trained, bert, caplog):
    settings = text_settings(
        bert, tmp_path, partitioner="iid", user_column="label", num_server_rounds=1
    )
    run(tmp_path / "runs", trained(2, settings), **settings)
    said = "user-column 'label' is not used with partitioner 'iid'"
    assert said in caplog.text


def test_row_16_a_few_clients_cannot_end_a_run(tmp_path, trained):
    """One that claims an absurd number of parts fails by itself."""
    parts = [{"num-partitions": 10**15}, {"num-partitions": "x"}, {}, {}]
    grid = trained(4, {}, parts)
    result = run(tmp_path, grid, num_server_rounds=1, fraction_train=1.0)
    assert result.history[1]["replies"] == 2


def test_row_16_devices_with_their_own_data_need_no_partitioner(tmp_path, gpt2):
    """The default partitioner does not fit the task, and is not used."""
    data = write_jsonl(tmp_path / "rows.jsonl", texts(8))
    settings = {
        "task": "causal-lm",
        "model": str(gpt2),
        "dataset": str(data),
        "test_split": "train[4:]",
        "lora_rank": 2,
        "max_length": 16,
    }
    own = [{"data-path": str(data)}] * 2
    config = {k.replace("_", "-"): v for k, v in settings.items()}
    config = RunConfig.parse(config).to_dict()
    grid = LocalGrid(client_app.app, 2, run_config=config, node_configs=own)
    out = tmp_path / "out"
    out.mkdir()
    result = run(out, grid, num_server_rounds=1, fraction_train=1.0, **settings)
    assert result.history[1]["replies"] == 2
    assert np.isfinite(result.summary["loss"])


def test_row_16_the_command_line_checks_a_simulation():
    config = RunConfig.parse({"task": "causal-lm", "model": "m", "dataset": "d"})
    with pytest.raises(ValueError, match="partitioner must be iid or natural-id"):
        config.require_partitioner()
    RunConfig.parse({"task": "causal-lm", "partitioner": "iid"}).require_partitioner()
