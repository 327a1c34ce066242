"""Tiny models and data, saved once per session, and separate caches."""

import numpy as np
import pytest

from tests.app.tiny import CONFIGS, images, save_model, texts, write_jsonl


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    for kind in CONFIGS:
        save_model(root / kind, kind)
    write_jsonl(root / "t-train.jsonl", texts(40))
    write_jsonl(root / "t-test.jsonl", texts(30, seed=1))
    (x, y), (x_test, y_test) = images(40), images(20, seed=1)
    np.savez(root / "i.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return root


@pytest.fixture
def built_cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")
