"""Runs on local data: texts, users, images."""

import json

import pytest

import client_app
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.files import image_folder, write
from tests.app.test_apps import run
from tests.app.tiny import settings_of

pytestmark = pytest.mark.usefixtures("cache")


def simulate(tmp_path, nodes=3, node_configs=None, **settings):
    settings = {"method": "dense"} | settings
    config = settings_of(**settings) | {"num-server-rounds": 1, "fraction-train": 1.0}
    grid = LocalGrid(
        client_app.app, nodes, run_config=config, node_configs=node_configs
    )
    (runs := tmp_path / "runs").mkdir()
    flat = {key.replace("-", "_"): value for key, value in config.items()}
    return run(runs, grid, **flat)


def test_a_run_in_which_one_device_has_its_own_data(tmp_path, bert):
    write(tmp_path, "parquet", 30)
    write(tmp_path, "parquet", 8, "test")
    (own := tmp_path / "own").mkdir()
    mine = write(own, "csv", 5)
    result = simulate(
        tmp_path,
        task="text-classification",
        model=str(bert),
        dataset=str(tmp_path),
        node_configs=[{}, {"data-path": str(mine)}, {"data-path": "/nowhere.csv"}],
        partitioner="flasc-dirichlet",
        head="mean",
        local_epochs=2,
    )
    first, last = result.history
    assert last["replies"] == 2
    (failure,) = last["failures"]
    assert "on this node, got '...'" in failure["reason"]
    # Of 27 training rows, the first of three clients has about 9.
    assert 5 < last["train_steps"] * 4 <= 2 * (16 + 8)
    assert first["loss"] != last["loss"]


def test_a_run_of_a_language_model_with_a_client_for_each_user(tmp_path, gpt2):
    write(tmp_path, "jsonl", 30)
    write(tmp_path, "jsonl", 8, "test")
    result = simulate(
        tmp_path,
        task="causal-lm",
        model=str(gpt2),
        dataset=str(tmp_path / "news-*.jsonl"),
        partitioner="natural-id",
        user_column="author",
    )
    first, last = result.history
    assert last["replies"] == 3 and not last["failures"]
    assert last["loss"] < first["loss"]


def test_a_run_on_augmented_images(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee"], 12)
    image_folder(tmp_path, "test", ["ant", "bee"], 4)
    result = simulate(
        tmp_path,
        task="image-classification",
        model=str(vit),
        dataset=str(tmp_path),
        augment=True,
    )
    assert result.history[1]["replies"] == 3 and not result.history[1]["failures"]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 1


def test_the_server_says_what_a_device_would_not(tmp_path, bert):
    """Where the run's own data is wrong: which columns it has, for its user."""
    path = tmp_path / "news.csv"
    path.write_text("body;topic\na;1\n")
    with pytest.raises(ValueError, match="label-column must be one of"):
        simulate(
            tmp_path, task="text-classification", model=str(bert), dataset=str(path)
        )
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    assert "the columns are body;topic" in json.loads(summary.read_text())["ended"]
