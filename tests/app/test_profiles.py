"""Every profile in conf/: it can be run, and where its parts are here, it trains."""

import os
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import local_path, model_path
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.lora import read_adapter
from tests.app.tiny import save_model

CONF = Path(__file__).parents[2] / "conf"
PROFILES = sorted(CONF.glob("*.toml"), key=lambda path: path.name)
EXPERIMENTS = [p for p in PROFILES if "digits-" not in p.stem]


def config_of(profile):
    return RunConfig.parse(tomllib.loads(profile.read_text()))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    load_task.cache_clear()


def test_both_papers_are_there():
    names = {path.stem for path in EXPERIMENTS}
    for data in ("cifar10", "20newsgroups", "reddit", "flair"):
        assert f"flasc-{data}" in names
    for data in ("agnews", "dbpedia"):
        for model in ("distilbert", "albert"):
            assert f"replication-{data}-{model}" in names


@pytest.mark.parametrize("profile", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_profile_says_what_it_is_and_needs(profile):
    text = profile.read_text()
    comments = text.partition("\ntask = ")[0].splitlines()
    assert all(line.startswith("# ") for line in comments if line)
    said = "\n".join(comments)
    assert "--federation-config" in said and "num-supernodes=" in said
    assert "Needs" in said
    config = config_of(profile)
    assert config.task != "digits" and config.dataset
    if not profile.stem.startswith("small-"):
        assert "ot published" in said
    if config.method == "replication":
        assert (config.low_rank, config.lora_rank) == (5, 20)


def test_ten_clients_train_in_a_round_of_flascs_experiments():
    for name, nodes in (("flasc-cifar10", 500), ("flasc-20newsgroups", 350)):
        fraction = config_of(CONF / f"{name}.toml").sampling.fraction_train
        assert int(fraction * nodes) == 10


def resolved(profile, tmp_path):
    """Return the profile's config with few rows, or skip: what is not here is said."""
    config = config_of(profile)
    if "$" in str(local_path(config.dataset)):
        pytest.skip(f"{config.dataset} needs a variable that is not set")
    model = config.model
    if not model:
        # The profile asks for one to be given.
        kind = "gpt2" if config.task == "causal-lm" else "vit"
        (tmp_path / kind).mkdir()
        model = str(save_model(tmp_path / kind, kind))
        config = replace(config, max_length=32)
    kind, _, where = model.partition(":")
    package = where.partition("/")[0]
    if kind == "package" and find_spec(package) is None:
        pytest.skip(f"the model's package {package} is not installed")
    if not Path(model_path(model)).exists() and os.environ.get("HF_HUB_OFFLINE") == "1":
        pytest.skip(f"{model} comes from the hub, and HF_HUB_OFFLINE is set")
    few = {"train_split": "train[:400]", "test_split": "test[:40]"}
    if model.endswith(".gguf"):
        # A language model of real size: a few tokens are enough.
        config = replace(config, max_length=64, batch_size=1)
    return replace(config, model=model, **few)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(path, marks=[pytest.mark.slow] if "instruct" in path.stem else [])
        for path in EXPERIMENTS
    ],
    ids=lambda path: path.stem,
)
def test_a_profile_trains(profile, tmp_path):
    config = resolved(profile, tmp_path)
    task = load_task(config)
    before = read_adapter(task.model)
    clients = 5
    if config.partitioner == "natural-id":
        task.data.partition(0, 1)
        clients = 1
    examples = task.data.partition(0, clients).subsample(config.batch_size, 0)
    outcome = task.train(examples, seed=0)
    assert outcome.steps == config.local_epochs and np.isfinite(outcome.loss)
    after = read_adapter(task.model)
    assert any(not np.array_equal(after[name], before[name]) for name in after)
    tested = task.evaluate(task.data.test.subsample(8, 0))
    assert np.isfinite(tested.loss)


def test_the_small_model_adapts_what_the_profile_says(tmp_path):
    config = resolved(CONF / "small-agnews.toml", tmp_path)
    factors = [n for n in read_adapter(load_task(config).model) if ".lora_A." in n]
    assert len(factors) == 6 * 3
