"""rsLoRA, DoRA, all linear modules, and trained embeddings, as PEFT has them."""

import json
from math import sqrt

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.export import load_for_evaluation, save
from flasc_flwr.app.training.lora import (
    adapter_tensors,
    read_adapter,
    read_tensors,
    write_adapter,
)
from flasc_flwr.app.training.start import load_into
from flasc_flwr.core.factors import lora_modules
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.merged import merge
from flasc_flwr.core.ranks import components, truncation
from tests.app.built import language_task, text_task
from tests.app.tiny import save_model, settings_of

pytestmark = pytest.mark.usefixtures("built_cache")

BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])}


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def trained(root, kind="gpt2", **settings):
    settings = {"client_optimizer": "adamw", "lora_rank": 4} | settings
    task = language_task(root, kind, **settings)
    task.train(task.data.partition(0, 4), seed=0)
    task.train(task.data.partition(0, 4), seed=1)
    return task


def plain(root, kind, folder):
    """Return the base model with an exported adapter, without flasc-flwr."""
    base = AutoModelForCausalLM.from_pretrained(root / kind)
    return PeftModel.from_pretrained(base, folder)


KINDS = {"rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
KINDS["both"] = KINDS["rslora"] | KINDS["dora"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
def test_the_export_computes_what_the_run_does(root, tmp_path, kind, settings):
    task = trained(root, kind, **settings)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert {k: saved[k] for k in settings} == settings
    loaded = plain(root, kind, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(task.model))
    again = language_task(root, kind, lora_rank=4, **settings)
    load_for_evaluation(again.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(again.model), logits(task.model))
    start = language_task(root, kind, lora_rank=4, **settings)
    load_into(start.model, str(tmp_path / "adapter"), start.config)
    torch.testing.assert_close(logits(start.model), logits(task.model))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
def test_an_adapter_of_a_lower_rank_is_the_same_model(root, settings):
    task = trained(root, **settings)
    layout = Layout.of(read_adapter(task.model))
    small = truncation(layout, 2)
    vector = layout.flatten(read_adapter(task.model))
    received = small.truncate(vector)
    write_adapter(task.model, small.layout.unflatten(received), task.config)
    low = logits(task.model)
    np.testing.assert_allclose(
        small.layout.flatten(read_adapter(task.model)), received, atol=1e-6
    )
    write_adapter(task.model, layout.unflatten(small.pad(received)), task.config)
    torch.testing.assert_close(low, logits(task.model))
    write_adapter(task.model, layout.unflatten(vector), task.config)
    assert not torch.allclose(low, logits(task.model))


def test_the_scale_of_rslora(root):
    task = language_task(root, lora_rank=4, lora_alpha=6.0, use_rslora=True)
    assert task.scale == 6 / sqrt(4)
    layer = task.model.base_model.model.transformer.h[0].attn.c_attn
    assert layer.scaling["default"] == task.scale


def test_products_merged_at_rsloras_scale_are_exported(root, tmp_path):
    task = trained(root, method="fedex-lora", use_rslora=True)
    rng = np.random.default_rng(0)
    arrays = read_adapter(task.model)
    terms = {}
    for module in lora_modules(Layout.of(arrays)):
        shapes = module.b.shape, module.a.shape
        terms[module.name] = tuple(rng.normal(0, 0.1, shape) for shape in shapes)
    products = merge({}, terms)
    task.load_adapter(arrays, products)
    save(task.model, tmp_path / "adapter", products, task.scale)
    expected = logits(task.model)
    torch.testing.assert_close(
        logits(plain(root, "gpt2", tmp_path / "adapter")), expected
    )


def magnitudes(arrays):
    return {n: a for n, a in arrays.items() if "magnitude" in n}


def test_doras_magnitudes_travel_as_differences_to_their_start(root):
    task = language_task(root, lora_rank=4, use_dora=True)
    arrays = read_adapter(task.model)
    layout = Layout.of(arrays)
    found = magnitudes(arrays)
    assert len(found) == len([t for t in layout.tensors if t.role == Role.B])
    assert not any(a.any() for a in found.values())
    assert {t.role for t in layout.tensors if t.name in found} == {Role.OTHER}
    # Every client has them, whatever its rank.
    ranks = components(layout)
    for tensor, place in layout.slices():
        assert tensor.role != Role.OTHER or not ranks[place].any()
    weight = task.model.base_model.model.transformer.h[0].attn.c_attn.weight
    lengths = weight.detach().norm(dim=0)  # transposed, as in GPT-2
    first = next(iter(magnitudes(read_tensors(task.model)).values()))
    np.testing.assert_allclose(first, lengths, rtol=1e-5)
    # A message without a single entry is the base model, and not one without weights.
    base = AutoModelForCausalLM.from_pretrained(root / "gpt2")
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    write_adapter(task.model, zeros, task.config)
    torch.testing.assert_close(logits(task.model), logits(base))


def test_doras_magnitudes_are_trained(root):
    found = magnitudes(read_adapter(trained(root, use_dora=True).model))
    assert all(a.any() for a in found.values())


def test_methods_that_cannot_hold_them_are_refused(root, tmp_path):
    for method in ("flora", "flexlora", "fedex-lora"):
        with pytest.raises(
            ValueError, match=f"use-dora must be .*'{method}'.* got true"
        ):
            RunConfig.parse({"use-dora": True, "method": method})
    with pytest.raises(
        ValueError, match="use-rslora must be false with rank-scale 'own'"
    ):
        RunConfig.parse({"use-rslora": True, "rank-scale": "own"})
    RunConfig.parse({"use-dora": True, "use-rslora": True, "method": "hetlora-tiers"})
    task = trained(root, use_dora=True)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    other = language_task(root, lora_rank=4)
    with pytest.raises(ValueError, match="use-dora must be true, as in the adapter"):
        load_into(other.model, str(tmp_path / "adapter"), other.config)


def test_all_linear_modules(root, tmp_path):
    task = trained(root, "llama", lora_targets="all-linear")
    names = {n.rpartition(".")[2] for n in task.model.targeted_module_names}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert names == attention | {"gate_proj", "up_proj", "down_proj"}
    save(task.model, tmp_path / "adapter", {}, task.scale)
    loaded = plain(root, "llama", tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(task.model))
    classes = text_task(root, "llama", lora_targets="all-linear")
    assert not any("score" in name for name in classes.model.targeted_module_names)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_embeddings_are_trained_where_the_head_has_weights_of_its_own(
    root, tmp_path, precision
):
    save_model(tmp_path / "llama", "llama", tie_word_embeddings=False)
    for file in root.glob("t-*.jsonl"):
        (tmp_path / file.name).symlink_to(file)
    task = trained(
        tmp_path,
        "llama",
        saved_modules="embed_tokens, lm_head",
        backbone_precision=precision,
    )
    heads = [n for n in read_adapter(task.model) if "lora" not in n]
    assert len(heads) == 2
    assert {t.dtype for t in adapter_tensors(task.model).values()} == {torch.float32}
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    table = next(a for n, a in read_adapter(task.model).items() if "embed_tokens" in n)
    assert not np.allclose(
        table, base.get_input_embeddings().weight.detach(), atol=1e-3
    )
    save(task.model, tmp_path / "adapter", {}, task.scale)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    close = {"rtol": 1e-4, "atol": 1e-4}
    if precision == "bfloat16":
        close = {"rtol": 0.1, "atol": 0.3}
    torch.testing.assert_close(logits(loaded), logits(task.model), **close)


@pytest.mark.parametrize("name", ["wte", "lm_head", "wte,lm_head"])
def test_tied_embeddings_are_refused(root, name):
    with pytest.raises(ValueError, match="saved-modules must not name .*'gpt2'.*share"):
        language_task(root, saved_modules=name)


def test_a_classifiers_embeddings_can_be_trained(root, tmp_path):
    task = text_task(root, "bert", saved_modules="classifier,word_embeddings")
    names = [n for n in read_adapter(task.model) if "lora" not in n]
    assert len(names) == 3
    save(task.model, tmp_path / "adapter", {}, task.scale)
    base = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(task.model))


def test_a_search_keeps_the_scale():
    from flasc_flwr.app.search.probes import Candidate, configured

    base = settings_of(lora_rank=4, lora_alpha=8.0, use_rslora=True)
    found = RunConfig.parse(configured(base, Candidate(rank=16, density=0.5)))
    assert found.adapter_scale == RunConfig.parse(base).adapter_scale == 4.0
