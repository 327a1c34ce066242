"""Adapters that are exported, evaluated, and used to start another run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

import client_app
from flasc_flwr.app.cli import app
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.app.training.start import load_into
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import run
from tests.app.tiny import save_model, settings_of, task_of, texts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    for kind in ("bert", "distilbert", "gpt2"):
        save_model(root / kind, kind)
    pd.DataFrame(texts(60)).to_csv(root / "t-train.csv", index=False)
    pd.DataFrame(texts(31, seed=1)).to_csv(root / "t-test.csv", index=False)
    return root


@pytest.fixture(autouse=True)
def cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")


def settings(root, kind="bert", **changes):
    common = {"task": "text-classification", "dataset": str(root / "t-*.csv")}
    common |= {"model": str(root / kind), "partitioner": "iid", "method": "dense"}
    common |= {"client_optimizer": "adamw"}
    return settings_of(**(common | changes))


def simulate(root, folder, **changes):
    config = {"num-server-rounds": 2, "fraction-train": 1.0} | settings(root, **changes)
    folder.mkdir()
    load_task.cache_clear()
    grid = LocalGrid(client_app.app, 3, run_config=config)
    return run(folder, grid, **{k.replace("-", "_"): v for k, v in config.items()})


def evaluate(*arguments):
    load_task.cache_clear()
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def evaluated(*arguments):
    result = evaluate(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    lines = result.stdout.splitlines()
    return {name: float(value) for name, value in map(str.split, lines)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "mean", "kind": "distilbert"},
        {"method": "flasc", "download-density": 0.9, "head": "mean"},
        {"method": "flora", "kind": "gpt2"},
        {"method": "fedex-lora"},
        {"method": "ffa-lora"},
        {"method": "flasc-tiers", "kind": "gpt2"},
        {"method": "full"},
        {"method": "full", "head": "mean"},
        {"method": "full", "kind": "gpt2", "task": "causal-lm"},
        {"method": "linear", "kind": "distilbert"},
        {"task": "causal-lm", "kind": "gpt2", "evaluate-examples": 11},
    ],
    ids=str,
)
def test_evaluating_what_was_exported_gives_what_the_run_measured(
    root, tmp_path, changes
):
    result = simulate(root, tmp_path / "runs", **changes)
    first, last = result.history[0], result.history[-1]
    given = evaluated(result.folder)
    assert given["accuracy"] == pytest.approx(result.summary["accuracy"], abs=1e-6)
    assert given["loss"] == pytest.approx(result.summary["loss"], abs=1e-5)
    assert given["examples"] == (11 if "evaluate-examples" in changes else 31)
    # It has been trained: the start would give another loss.
    assert abs(first["loss"] - last["loss"]) > 5e-5


@pytest.mark.parametrize("changes", [{"method": "full"}, {}], ids=str)
def test_a_whole_model_predicts_by_the_names_of_the_runs_classes(
    root, tmp_path, changes
):
    """With transformers alone, as accurately as the run has measured."""
    result = simulate(root, tmp_path / "runs", **{"class-names": "1,0"} | changes)
    to = result.folder / "adapter" if changes else tmp_path / "merged"
    if not changes:
        done = CliRunner().invoke(
            app, ["export", str(result.folder), "--merged", "--to", str(to)]
        )
        assert done.exit_code == 0, done.stderr
    names = AutoConfig.from_pretrained(to)
    assert names.id2label == {0: "1", 1: "0"} and names.label2id == {"1": 0, "0": 1}
    model = AutoModelForSequenceClassification.from_pretrained(to).eval()
    rows, tokenizer = texts(31, seed=1), AutoTokenizer.from_pretrained(root / "bert")
    right = 0
    for row in rows:
        tokens = tokenizer(row["text"], return_tensors="pt", truncation=True)
        with torch.no_grad():
            predicted = int(model(**tokens).logits.argmax())
        right += names.id2label[predicted] == str(row["label"])
    assert right / len(rows) == pytest.approx(result.summary["accuracy"])


def test_settings_can_be_overridden(root, tmp_path):
    folder = simulate(root, tmp_path / "runs").folder
    some = evaluated(folder, "--run-config", "evaluate-examples=7")
    assert some["examples"] == 7
    # Of a file beside the runs, nothing says that it is of a run.
    (tmp_path / "config.toml").write_text("")
    assert evaluated(tmp_path / "runs")["examples"] == 31


def test_adapters_of_rounds_on_the_way(root, tmp_path):
    result = simulate(
        root, tmp_path / "runs", num_server_rounds=5, export_every=2, method="flasc"
    )
    there = sorted(p.name for p in result.folder.glob("adapter*"))
    assert there == ["adapter", "adapter-round-0002", "adapter-round-0004"]
    for round in (2, 4):
        given = evaluated(result.folder / f"adapter-round-{round:04d}")
        assert given["loss"] == pytest.approx(result.history[round]["loss"], rel=1e-4)


@pytest.mark.parametrize("method", ["dense", "flasc", "flora"])
def test_a_run_starts_from_what_another_exported(root, tmp_path, method):
    first = simulate(root, tmp_path / "first", method=method)
    saved = json.loads((first.folder / "adapter/adapter_config.json").read_text())
    second = simulate(
        root,
        tmp_path / "second",
        adapter=str(first.folder / "adapter"),
        # Merged products are in the adapter, which has a larger rank.
        method=method if method != "flora" else "dense",
        lora_rank=saved["r"],
        lora_alpha=float(saved["lora_alpha"]),
    )
    start = second.history[0]
    assert start["accuracy"] == first.summary["accuracy"]
    assert start["loss"] == pytest.approx(first.summary["loss"], rel=1e-3)
    assert second.history[-1]["server_loss"] != start["server_loss"]


@pytest.fixture
def exported(root, tmp_path):
    from flasc_flwr.app.training.export import save

    task = task_of(**{k.replace("-", "_"): v for k, v in settings(root).items()})
    task.train(task.data.partition(0, 3), seed=0)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    return task, tmp_path / "adapter"


def fresh(root, **changes):
    changes = settings(root, **changes)
    return task_of(**{k.replace("-", "_"): v for k, v in changes.items()})


def test_every_tensor_of_an_adapter_is_taken(root, exported):
    task, folder = exported
    expected = read_adapter(task.model)
    other = fresh(root)
    load_into(other.model, str(folder), other.config)
    given = read_adapter(other.model)
    for name, value in expected.items():
        np.testing.assert_array_equal(given[name], value)
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(iter(weights))
    for odd in (weights | {"more": weights[name]}, {name: weights[name]}):
        save_file(odd, folder / "adapter_model.safetensors")
        with pytest.raises(ValueError, match="tensors of the run's adapter, got"):
            load_into(other.model, str(folder), other.config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lora_rank": 4}, "lora-rank must be 2, .* got 4"),
        ({"lora_alpha": 1.0}, "lora-alpha must be 4.0, .* got 1.0"),
        ({"lora_targets": "key"}, r"which lacks 4 \(such as .*\.key\.lora_A"),
        ({"saved_modules": ""}, r"which has further 2 \(such as .*classifier"),
        ({"method": "full"}, "adapter must be '' with method 'full'"),
        ({"method": "ffa-lora"}, "adapter must be '' with method 'ffa-lora'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(root, exported, changes, expected):
    _, folder = exported
    other = fresh(root, **changes)
    with pytest.raises(ValueError, match=expected):
        load_into(other.model, str(folder), other.config)


def test_no_adapter_is_named(root, tmp_path):
    other = fresh(root)
    with pytest.raises(ValueError, match="adapter must .* adapter_config.json"):
        load_into(other.model, str(tmp_path), other.config)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", b"\x00" * 300),
        ("adapter_model.safetensors", b""),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b'{"peft_type": "NOPE"}'),
    ],
)
def test_a_damaged_adapter_is_named_in_one_line(
    root, exported, tmp_path, name, content
):
    _, folder = exported
    (tmp_path / "config.toml").write_text(tomli_w.dumps(settings(root)))
    assert evaluate(tmp_path).exit_code == 0
    (folder / name).write_bytes(content)
    for words in (["evaluate"], ["export", "--merged", "--to", str(tmp_path / "to")]):
        load_task.cache_clear()
        result = CliRunner().invoke(app, [words[0], str(tmp_path), *words[1:]])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        (line,) = result.stderr.splitlines()[-1:]
        assert line.startswith(f"Error: '{folder}' could not be loaded: ")


def test_what_cannot_be_evaluated_is_named(root, tmp_path):
    nothing = evaluate(tmp_path)
    assert nothing.exit_code == 1 and "run folder" in nothing.stderr
    (tmp_path / "config.toml").write_text("")
    empty = evaluate(tmp_path)
    assert empty.exit_code == 1 and "has no adapter and no model" in empty.stderr
    folder = simulate(root, tmp_path / "runs").folder
    load_task.cache_clear()
    assert evaluate(folder, "--run-config", "lora-targets='key'").exit_code == 0
    assert evaluate(folder, "--run-config", f"model='{root}/gpt2'").exit_code == 1
    shutil.rmtree(folder)
