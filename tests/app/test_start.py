"""Runs that start from an adapter of PEFT, whatever its scale and its ranks."""

import json

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import client_app
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.app.training.start import load_into
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.files import text_task
from tests.app.test_apps import run
from tests.app.tiny import settings_of

pytestmark = pytest.mark.usefixtures("built_cache")

QUERY = r"bert\.encoder\.layer\.0\.attention\.self\.query"


def save_adapter(root, folder, **lora):
    """Save an adapter that changes what its model returns; return it as PEFT loads it.

    PEFT sorts patterns when it saves, and the first that matches counts.
    """
    base = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]}
    settings |= {"modules_to_save": ["classifier"]}
    model = get_peft_model(base, LoraConfig(**(settings | lora))).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if "lora_B" in name else 0.5
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    return PeftModel.from_pretrained(base, str(folder))


def new_run(root, **settings):
    small = {"lora_rank": 2, "lora_alpha": 4.0, "method": "dense"}
    return text_task(root / "bert", root / "t-*.jsonl", **(small | settings))


def logits(model, task):
    batch = task.data.test.batch(torch.arange(30))
    del batch["labels"]
    with torch.no_grad():
        return model.eval()(**batch).logits


RESCALED = {
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"query": 7, QUERY: 1}},
    "rank_pattern": {"rank_pattern": {QUERY: 1}},
    "all": {
        "use_rslora": True,
        "alpha_pattern": {"value": 2},
        "rank_pattern": {"value": 1},
    },
}


@pytest.mark.parametrize("kind", list(RESCALED))
def test_an_adapter_of_another_scale_or_rank_is_the_same_model(root, tmp_path, kind):
    theirs = save_adapter(root, tmp_path, **RESCALED[kind])
    task = new_run(root)
    expected = logits(theirs, task)
    load_into(task.model, str(tmp_path), task.config)
    torch.testing.assert_close(logits(task.model, task), expected)
    # At the run's rank and scale everywhere, as all clients have them.
    shapes = {v.shape[0] for n, v in read_adapter(task.model).items() if "lora_A" in n}
    assert shapes == {2}
    # The scale matters: B as it was saved is another model.
    plain = new_run(root)
    for name, value in load_file(tmp_path / "adapter_model.safetensors").items():
        if kind not in ("rank_pattern", "all"):
            arrays = read_adapter(plain.model) | {name: value.numpy()}
            plain.load_adapter(arrays)
    assert (logits(plain.model, task) - expected).abs().max() > 1e-2


def test_components_that_an_adapter_lacks_can_be_trained(root, tmp_path):
    save_adapter(root, tmp_path, rank_pattern={"value": 1})
    task = new_run(root, client_optimizer="adamw")
    load_into(task.model, str(tmp_path), task.config)
    start = read_adapter(task.model)
    task.train(task.data.partition(0, 4), seed=0)
    end = read_adapter(task.model)
    for name, value in end.items():
        if "value.lora_B" in name:
            assert not start[name][:, 1].any() and value[:, 1].any(), name


def test_a_run_from_an_unequal_adapter_gets_all_replies(root, tmp_path):
    theirs = save_adapter(root, tmp_path / "adapter", **RESCALED["all"])
    config = {"num-server-rounds": 1, "fraction-train": 1.0} | settings_of(
        task="text-classification",
        model=str(root / "bert"),
        dataset=str(root / "t-*.jsonl"),
        partitioner="iid",
        method="dense",
        adapter=str(tmp_path / "adapter"),
    )
    (tmp_path / "runs").mkdir()
    load_task.cache_clear()
    grid = LocalGrid(client_app.app, 3, run_config=config)
    snake = {name.replace("-", "_"): value for name, value in config.items()}
    result = run(tmp_path / "runs", grid, **snake)
    assert result.history[1]["replies"] == 3 and not result.history[1]["failures"]
    task = new_run(root)
    batch = task.data.test.batch(torch.arange(30))
    loss = torch.nn.functional.cross_entropy(logits(theirs, task), batch["labels"])
    assert result.history[0]["loss"] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_dora": True}, "use-dora must be true, as in the adapter"),
        ({"bias": "all"}, "LoRA, rsLoRA or DoRA, .* with bias = all"),
        ({"lora_bias": True}, "LoRA, rsLoRA or DoRA, .* with lora_bias = True"),
        ({"trainable_token_indices": [1]}, "with trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "with init_lora_weights = pissa"),
        ({"init_lora_weights": "olora"}, "with init_lora_weights = olora"),
        ({"something_new": 3}, "with something_new = 3"),
        ({"peft_type": "IA3"}, "of type LORA, got .* of type 'IA3'"),
        ({"r": 4}, None),
        ({"something_new": None, "qalora_group_size": 16}, None),
        ({"lora_alpha": 8}, "lora-alpha must be 8, as in the adapter"),
        ({"lora_alpha": None}, "numbers > 0 as lora_alpha"),
        ({"lora_alpha": "4"}, "numbers > 0 as lora_alpha"),
        ({"alpha_pattern": {"query": 0}}, "numbers > 0 .* in alpha_pattern"),
        ({"alpha_pattern": {"(": 3}}, "numbers > 0 .* in alpha_pattern"),
        ({"alpha_pattern": ["query"]}, "numbers > 0 .* in alpha_pattern"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(root, tmp_path, changes, expected):
    save_adapter(root, tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    task = new_run(root)
    before = read_adapter(task.model)
    if expected is None:
        load_into(task.model, str(tmp_path), task.config)
        return
    with pytest.raises(ValueError, match=expected):
        load_into(task.model, str(tmp_path), task.config)
    for name, value in read_adapter(task.model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_rank_above_the_runs_is_refused(root, tmp_path):
    save_adapter(root, tmp_path, rank_pattern={"value": 3})
    task = new_run(root)
    with pytest.raises(ValueError, match="lora-rank must be 3, as in the adapter"):
        load_into(task.model, str(tmp_path), task.config)


def weights(edit):
    def change(folder):
        file = folder / "adapter_model.safetensors"
        edited = edit(load_file(file))
        save_file({name: tensor.contiguous() for name, tensor in edited.items()}, file)

    return change


DAMAGES = {
    "nan": (
        weights(lambda all: {n: t * float("nan") for n, t in all.items()}),
        "finite tensors, .* holds NaN",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "a folder with adapter_model.safetensors",
    ),
    "cut": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\0" * 9),
        "could not be loaded: SafetensorError",
    ),
    "no json": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "adapter_config.json in JSON",
    ),
    "a list": (
        lambda folder: (folder / "adapter_config.json").write_text("[]"),
        "of type LORA, got .* of type None",
    ),
    "integers": (
        weights(lambda all: {n: t.to(torch.int8) for n, t in all.items()}),
        "floating-point numbers, .* is torch.int8",
    ),
    "rank 0": (
        weights(
            lambda all: {
                n: t[:0] if "lora_A" in n else t[:, :0] if "lora_B" in n else t
                for n, t in all.items()
            }
        ),
        "ranks of at least 1, got .* with 0",
    ),
    "two ranks": (
        weights(
            lambda all: {n: t[:1] if "query.lora_A" in n else t for n, t in all.items()}
        ),
        "is damaged: .* has no B of the same name and rank",
    ),
    "a folder below": (
        lambda folder: (folder / "adapter_config.json").rename(
            (folder / "mine").mkdir() or folder / "mine/adapter_config.json"
        ),
        "adapter_config.json, got .*: set it to its folder 'mine'",
    ),
    "other names": (
        weights(lambda all: {n.replace("bert", "roberta"): t for n, t in all.items()}),
        "which lacks 8 .* and has further 8 .*model, task, head, lora-targets",
    ),
    "other classes": (
        weights(
            lambda all: all | {n: torch.ones(5, 16) for n in all if "classifier.w" in n}
        ),
        r"classifier.weight of shape \(2, 16\), .* with \(5, 16\)",
    ),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_damaged_adapters_are_named(root, tmp_path, kind):
    damage, expected = DAMAGES[kind]
    save_adapter(root, tmp_path)
    damage(tmp_path)
    task = new_run(root)
    with pytest.raises(ValueError, match=expected) as raised:
        load_into(task.model, str(tmp_path), task.config)
    assert str(tmp_path) in str(raised.value)


def test_a_real_adapter_of_another_kind_is_refused(root, tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    config = IA3Config(target_modules=["key"], feedforward_modules=[])
    get_peft_model(base, config).save_pretrained(tmp_path)
    task = new_run(root)
    with pytest.raises(ValueError, match="of type LORA, got .* of type 'IA3'"):
        load_into(task.model, str(tmp_path), task.config)


def test_an_adapter_of_another_model_is_said(root, tmp_path, caplog):
    save_adapter(root, tmp_path)
    task = new_run(root)
    load_into(task.model, str(tmp_path), task.config)
    assert "trained on model" not in caplog.text
    file = tmp_path / "adapter_config.json"
    saved = json.loads(file.read_text()) | {"base_model_name_or_path": "org/other\x1b"}
    file.write_text(json.dumps(saved))
    load_into(task.model, str(tmp_path), task.config)
    assert "The adapter was trained on model org/other, and" in caplog.text


def test_row_3_a_relative_path_is_not_an_adapter(root, tmp_path, monkeypatch):
    save_adapter(root, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    task = new_run(root)
    with pytest.raises(ValueError, match="adapter must be an absolute path, .*'adap"):
        load_into(task.model, "adapter", task.config)
