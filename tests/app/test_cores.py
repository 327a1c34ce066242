"""Models with small cores: what they compute, train, send, and export."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training import core_bases
from flasc_flwr.app.training.export import load_for_evaluation, save
from flasc_flwr.app.training.identity import identity_of, require_alike
from flasc_flwr.app.training.lora import (
    adapter_tensors,
    read_adapter,
    trained_parameters,
    write_adapter,
)
from flasc_flwr.core.cores import seeded_bases
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.ranks import truncation
from tests.app.built import language_task, text_task

pytestmark = pytest.mark.usefixtures("built_cache")

BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])}
RANK = 8
SETTINGS = {
    "fed-sb": {"method": "fed-sb"},
    "ravan": {"method": "ravan"},
    "weights": {"method": "fed-sb", "core_basis": "weights"},
    "ravan-weights": {"method": "ravan", "core_basis": "weights", "use_rslora": True},
}
each_kind = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", SETTINGS["fed-sb"]),
        ("gpt2", SETTINGS["ravan-weights"]),
        ("llama", SETTINGS["ravan"]),
        ("llama", SETTINGS["weights"]),
    ],
    ids=str,
)


@pytest.fixture(autouse=True)
def bases_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(core_bases, "user_cache_path", lambda _: tmp_path / "cache")


def made(root, kind="gpt2", **settings):
    common = {"lora_rank": RANK, "lora_alpha": 4.0, "client_optimizer": "adamw"}
    return language_task(root, kind, **(common | settings))


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def random_arrays(task, seed=0):
    rng = np.random.default_rng(seed)
    arrays = read_adapter(task.model)
    return {
        name: rng.normal(0, 0.5, array.shape).astype(np.float32)
        for name, array in arrays.items()
    }


def weight_of(model, module):
    """Return a frozen weight as (out, in), and how it is stored."""
    layer = model.get_submodule(module)
    conv = type(layer).__name__ == "Conv1D"
    return (layer.weight.T if conv else layer.weight), conv


def transcribed(root, kind, task, arrays, config):
    """Return a backbone with ``s sum_g B_g H_g A_g`` added to its weights by hand."""
    base = AutoModelForCausalLM.from_pretrained(root / kind)
    heads = 4 if config.method == "ravan" else 1
    size = RANK // heads
    rank_root = RANK**0.5 if config.use_rslora else RANK
    for name, core in arrays.items():
        module = name.removeprefix("base_model.model.").removesuffix(".lora_core")
        weight, conv = weight_of(base, module)
        w = weight.detach().double()
        if config.core_basis == "weights":
            u, s, vt = torch.linalg.svd(w, full_matrices=False)
            b, a = u[:, :RANK] * s[:RANK], vt[:RANK]
            # Signs as scikit-learn fixes them: the largest entry of each u is positive.
            largest = b.abs().argmax(0)
            signs = torch.sign(b[largest, torch.arange(RANK)])
            b, a = b * signs, a * signs[:, None]
        else:
            key = name.removesuffix(".lora_core")
            pair = seeded_bases(key, tuple(w.shape), RANK, config.seed)
            b, a = map(torch.from_numpy, pair)
        added = torch.zeros_like(w)
        for g in range(core.shape[0] // core.shape[1]):
            part = slice(g * size, g * size + core.shape[1])
            rows = slice(g * core.shape[1], (g + 1) * core.shape[1])
            h = torch.from_numpy(core[rows]).double()
            added += b[:, part] @ h @ a[part]
        added *= 4.0 / rank_root
        with torch.no_grad():
            layer = base.get_submodule(module)
            layer.weight.add_((added.T if conv else added).float())
    return base


@each_kind
def test_a_model_computes_what_the_formula_says(root, kind, settings):
    """Modules of unequal sides, transposed weights (GPT-2), all roles of a LoRA."""
    task = made(root, kind, **settings)
    start = logits(task.model)
    base = AutoModelForCausalLM.from_pretrained(root / kind)
    torch.testing.assert_close(start, logits(base))
    arrays = random_arrays(task)
    write_adapter(task.model, arrays, task.config)
    expected = logits(transcribed(root, kind, task, arrays, task.config))
    torch.testing.assert_close(logits(task.model), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(start, expected, atol=0.05)


@pytest.mark.parametrize("method", ["fed-sb", "ravan"])
@pytest.mark.parametrize("rank", [1, 5])
def test_a_client_of_a_smaller_rank_computes_with_its_own_part(root, method, rank):
    task = made(root, method=method)
    arrays = random_arrays(task)
    layout = Layout.of(arrays)
    cut = truncation(layout, rank)
    small = cut.layout.unflatten(cut.truncate(layout.flatten(arrays)))
    write_adapter(task.model, small, task.config)
    low = logits(task.model)
    expected = logits(transcribed(root, "gpt2", task, small, task.config))
    torch.testing.assert_close(low, expected, rtol=1e-3, atol=1e-3)
    task.train(task.data.partition(0, 4), seed=0)
    trained = read_adapter(task.model)
    assert {n: a.shape for n, a in trained.items()} == {
        n: a.shape for n, a in small.items()
    }
    assert not np.allclose(trained[next(iter(small))], small[next(iter(small))])
    padded = layout.unflatten(cut.pad(cut.layout.flatten(small)))
    write_adapter(task.model, padded, task.config)
    torch.testing.assert_close(logits(task.model), low)


@pytest.mark.parametrize("method", ["fed-sb", "ravan"])
def test_only_cores_the_head_and_ravans_scales_are_trained(root, method):
    task = text_task(root, "bert", method=method, lora_rank=4, client_learning_rate=0.5)
    before = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    for seed in (0, 1):
        task.train(task.data.partition(0, 4), seed=seed)
    changed = {
        name
        for name, p in task.model.named_parameters()
        if not torch.equal(p, before[name])
    }
    scales = {name for name in changed if name.endswith("lora_A.default.scales")}
    cores = {name for name in changed if name.endswith("lora_A.default.heads")}
    assert cores and bool(scales) == (method == "ravan")
    assert all("modules_to_save" in name for name in changed - scales - cores)
    layout = Layout.of(read_adapter(task.model))
    assert {t.role for t in layout.tensors} == {Role.CORE, Role.HEAD}
    assert len(trained_parameters(task.model)) == len(changed)
    assert len(adapter_tensors(task.model)) == len(changed) - len(scales)


def test_ravan_sends_heads_times_scales_and_begins_again_at_one(root):
    task = made(root, method="ravan", client_learning_rate=0.1)
    write_adapter(task.model, random_arrays(task), task.config)
    task.train(task.data.partition(0, 4), seed=0)
    sent, computed = read_adapter(task.model), logits(task.model)
    tensors = adapter_tensors(task.model)
    some = next(iter(tensors))
    assert not np.allclose(sent[some], tensors[some].detach())
    write_adapter(task.model, sent, task.config)
    np.testing.assert_allclose(sent[some], tensors[some].detach())
    torch.testing.assert_close(logits(task.model), computed, rtol=1e-4, atol=1e-4)


@each_kind
def test_the_export_is_a_lora_for_plain_peft(root, tmp_path, kind, settings):
    task = made(root, kind, **settings)
    trained = trainable(task.model)
    task.train(task.data.partition(0, 4), seed=0)
    expected = logits(task.model)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["peft_type"] == "LORA" and saved["r"] == RANK
    base = AutoModelForCausalLM.from_pretrained(root / kind)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-3, atol=1e-3)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    # The model is as it was: it can be trained further.
    torch.testing.assert_close(logits(task.model), expected)
    assert trainable(task.model) == trained
    again = made(root, kind, **settings)
    load_for_evaluation(again.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(again.model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head_rank", [0, 1])
def test_a_head_is_exported_beside_the_cores(root, tmp_path, head_rank):
    settings = {"method": "ravan", "lora_rank": 4, "head_rank": head_rank}
    task = text_task(root, "bert", **settings)
    task.train(task.data.partition(0, 4), seed=0)
    expected = logits(task.model)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    again = text_task(root, "bert", method="ravan", lora_rank=4)
    load_for_evaluation(again.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(again.model), expected, rtol=1e-4, atol=1e-4)


def test_bases_of_weights_are_computed_once(root, monkeypatch, tmp_path):
    first = made(root, core_basis="weights", method="fed-sb")
    arrays = random_arrays(first)
    write_adapter(first.model, arrays, first.config)
    (file,) = (tmp_path / "cache" / "core-bases").iterdir()

    def again(*_, **__):
        raise AssertionError("computed again")

    with monkeypatch.context() as patched:
        patched.setattr("sklearn.utils.extmath.randomized_svd", again)
        second = made(root, core_basis="weights", method="fed-sb", seed=7)
        with pytest.raises(AssertionError, match="computed again"):
            made(root, core_basis="weights", method="fed-sb", lora_rank=4)
    write_adapter(second.model, arrays, second.config)
    torch.testing.assert_close(logits(second.model), logits(first.model))
    file.write_bytes(b"damaged")
    third = made(root, core_basis="weights", method="fed-sb")
    write_adapter(third.model, arrays, third.config)
    torch.testing.assert_close(logits(third.model), logits(first.model))


def test_a_device_with_other_weights_has_other_bases_and_takes_no_part(root, tmp_path):
    """An average of cores between unequal bases means nothing."""
    task = made(root, core_basis="weights", method="fed-sb")
    sent = identity_of(task.model, task.config)
    require_alike(task.model, task.config, [each * (1 + 1e-9) for each in sent])
    shutil.copytree(root / "gpt2", tmp_path / "gpt2")
    other = AutoModelForCausalLM.from_pretrained(root / "gpt2")
    with torch.no_grad():
        other.transformer.h[1].mlp.c_fc.weight[:, 3] *= 1.5
    other.save_pretrained(tmp_path / "gpt2")
    shutil.copy(root / "t-train.jsonl", tmp_path)
    device = made(tmp_path, core_basis="weights", method="fed-sb")
    with pytest.raises(ValueError, match="core-basis 'weights' needs .* got others"):
        require_alike(device.model, device.config, sent)
    for basis in ("seed", "gradient"):
        plain = made(root, core_basis=basis, method="fed-sb")
        assert identity_of(plain.model, plain.config) == []


def test_bases_of_a_large_weight_have_its_largest_singular_values():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(300, 140)).astype(np.float32)
    b, a = core_bases.weight_bases(weight, 12)
    u, s, vt = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    best = (u[:, :12] * s[:12]) @ vt[:12]
    error = np.linalg.norm(b @ a - weight) / np.linalg.norm(best - weight)
    assert 1 - 1e-6 < error < 1.002
    np.testing.assert_allclose(a @ a.T, np.eye(12), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use-dora": True}, "use-dora must be false with method 'ravan'.* got true"),
        ({"adapter": "/x"}, "adapter must be '' with method 'ravan'.* got '/x'"),
        (
            {"lora-rank": 6},
            "lora-rank must be a multiple of core-heads 4 with method 'ravan', got 6",
        ),
        (
            {"aggregation": "svd"},
            "aggregation must average with method 'ravan'.* got 'svd'",
        ),
        (
            {"dp-clip-norm": 1.0, "dp-noise-multiplier": 1.0, "dp-population": 10},
            "with differential privacy, aggregation must be 'zero-padded-updates'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.parse({"method": "ravan", **settings})


def test_packed_weights_have_no_bases():
    config = RunConfig(method="fed-sb", core_basis="weights", quantize="4bit")
    with pytest.raises(ValueError, match="core-basis must be 'seed' .*got 'weights'"):
        core_bases.bases_of({}, config)


def test_modules_that_do_not_fit_are_named(root):
    with pytest.raises(ValueError, match="lora-rank must be <= 16 .*'base.*got 32"):
        made(root, method="fed-sb", lora_rank=32)
    with pytest.raises(ValueError, match="must name linear modules .*embed_tokens"):
        made(root, "llama", method="fed-sb", lora_targets="embed_tokens")
