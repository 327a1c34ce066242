"""A tiny chat model and conversations, saved once, and one run of them."""

import json

import pandas as pd
import pytest

from tests.app.chats import (
    chat_settings,
    chat_task,
    save_chats,
)
from tests.app.instruction.decoding import decoded
from tests.app.instruction.running import ROUNDS, simulate
from tests.app.tiny import write_jsonl


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return save_chats(tmp_path_factory.mktemp("chats"))


@pytest.fixture(autouse=True)
def cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")


@pytest.fixture(scope="session")
def result(root, tmp_path_factory):
    """A short run that answers test prompts before, on the way and at the end."""
    out = tmp_path_factory.mktemp("runs")
    settings = chat_settings(
        root,
        domain_column="domain",
        evaluate_generate=2,
        generate_examples=4,
        generate_tokens=6,
        answer_pattern="#### (.+)",
        method="dense",
        num_server_rounds=ROUNDS,
        fraction_train=1.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")
        return simulate(out, **settings)


@pytest.fixture(scope="session")
def read(root, tmp_path_factory):
    """Return a function that reads rows as a device does, and decodes them."""
    tasks = {}

    def of(rows, kind="jsonl", **settings):
        key = json.dumps(settings)
        if key not in tasks:
            tasks[key] = chat_task(root, **settings)
        path = tmp_path_factory.mktemp("own") / f"rows.{kind}"
        if kind == "jsonl":
            write_jsonl(path, rows)
        elif kind == "csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            pd.DataFrame(rows).to_parquet(path)
        examples = tasks[key].data.local_examples(str(path))
        return [decoded(root, examples, n) for n in range(len(examples))]

    return of
