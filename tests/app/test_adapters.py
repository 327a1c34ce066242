"""Adapters of other ranks, merged backbones, and what is saved of them."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import ViTForImageClassification

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.training.export import save
from flasc_flwr.app.training.local import train_model
from flasc_flwr.app.training.lora import adapter_tensors, read_adapter
from flasc_flwr.app.training.merging import Merging
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.merged import merge
from flasc_flwr.core.ranks import truncation


def task_of(**settings):
    load_task.cache_clear()
    return load_task(RunConfig.parse({"lora-rank": 4, "lora-alpha": 8.0} | settings))


def randomised(task, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: value + 0.3 * rng.standard_normal(value.shape).astype(np.float32)
        for name, value in read_adapter(task.model).items()
    }


def logits(model):
    """Return logits (20, 10), computed in float64.

    Equal models that sum in another order then differ by 1e-12. In float32 they would
    differ by as much as 1e-4, depending on the processor.
    """
    pixels = parts()[2]["pixel_values"][:20].double()
    model.eval().double()
    with torch.no_grad():
        result = model(pixel_values=pixels).logits.numpy()
    # float32 to float64 and back gives the same parameters.
    model.float()
    return result


def a_module(task):
    """Return the name of one adapted module, whatever transformers calls it."""
    name = next(n for n in read_adapter(task.model) if ".lora_A." in n)
    return name.split(".lora_A.")[0]


@pytest.mark.parametrize("scale", ["common", "own"])
def test_a_smaller_adapter_is_the_same_model_as_the_padded_one(scale):
    task = task_of(**{"rank-scale": scale})
    arrays = randomised(task)
    layout = Layout.of(arrays)
    cut = truncation(layout, 2, scale)
    taken = cut.truncate(layout.flatten(arrays))
    task.load_adapter(layout.unflatten(cut.pad(taken)))
    padded = logits(task.model)
    assert read_adapter(task.model).keys() == arrays.keys()
    task.load_adapter(cut.layout.unflatten(taken))
    trainable = [p for p in task.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == cut.layout.size < layout.size
    np.testing.assert_allclose(logits(task.model), padded, rtol=0, atol=1e-11)
    # And back: ranks take turns on one model.
    task.load_adapter(arrays)
    full = logits(task.model)
    assert np.abs(full - padded).max() > 1e-3
    task.load_adapter(cut.layout.unflatten(taken))
    task.load_adapter(arrays)
    np.testing.assert_array_equal(logits(task.model), full)


def test_a_smaller_adapter_really_trains_at_its_own_rank():
    task = task_of()
    arrays = randomised(task)
    layout = Layout.of(arrays)
    cut = truncation(layout, 1)
    task.load_adapter(cut.layout.unflatten(cut.truncate(layout.flatten(arrays))))
    before = read_adapter(task.model)
    train_model(task.model, task.data.partition(0, 4), task.config, seed=0)
    after = read_adapter(task.model)
    assert Layout.of(after) == cut.layout
    assert all(not np.array_equal(after[n], before[n]) for n in after)


@pytest.mark.parametrize("rank", [3, 80])  # thin factors, and their product
def test_what_was_merged_is_exported_as_part_of_the_adapter(tmp_path, rank):
    task = task_of()
    arrays = randomised(task)
    task.load_adapter(arrays)
    without = logits(task.model)
    merged = {}
    for name in arrays:
        if ".lora_A." in name:
            module = name.split(".lora_A.")[0]
            rng = np.random.default_rng(len(merged))
            terms = rng.standard_normal((128, rank)), rng.standard_normal((rank, 128))
            merged = merge(merged, {module: (0.02 * terms[0], terms[1])})
    task.load_adapter(arrays, merged)
    expected = logits(task.model)
    assert np.abs(expected - without).max() > 0.1
    save(task.model, tmp_path / "adapter", merged, task.scale)
    public = parts()[0]
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    loaded = PeftModel.from_pretrained(backbone, str(tmp_path / "adapter"))
    # Merged weights and saved factors are each rounded to float32.
    np.testing.assert_allclose(logits(loaded), expected, rtol=0, atol=3e-5)
    # Saving leaves the model as it was, and the backbone can be had back.
    np.testing.assert_allclose(logits(task.model), expected, rtol=0, atol=1e-11)
    task.load_adapter(arrays)
    np.testing.assert_array_equal(logits(task.model), without)


def test_merging_names_what_does_not_fit():
    task = task_of()
    merging = Merging(task.model)
    with pytest.raises(ValueError, match="is not the name of a merged array"):
        merging.apply({"x.weight": np.zeros((2, 2))}, 1.0)
    with pytest.raises(ValueError, match="is not a linear module that LoRA adapts"):
        merging.apply({"base_model.model.vit.merged": np.zeros((2, 2))}, 1.0)
    with pytest.raises(ValueError, match=r"must have shape \(128, 128\), got \(2, 2\)"):
        merging.apply({f"{a_module(task)}.merged": np.zeros((2, 2))}, 1.0)


@pytest.mark.parametrize("method", ["full", "linear"])
def test_without_lora_other_parameters_are_federated_and_saved(tmp_path, method):
    task = task_of(method=method)
    names = set(adapter_tensors(task.model))
    head = {"classifier.weight", "classifier.bias"}
    everything = {name for name, _ in task.model.named_parameters()}
    assert names == (head if method == "linear" else everything)
    train_model(task.model, task.data.partition(0, 4), task.config, seed=0)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    loaded = ViTForImageClassification.from_pretrained(tmp_path / "adapter")
    np.testing.assert_allclose(logits(loaded), logits(task.model), rtol=0, atol=1e-11)


def test_a_frozen_tensor_needs_no_gradient_and_stays():
    task = task_of()
    start = randomised(task)
    task.load_adapter(start)
    masks = {
        name: np.full(v.shape, ".lora_A." not in name) for name, v in start.items()
    }
    adamw = RunConfig(lora_rank=4, client_optimizer="adamw")
    train_model(task.model, task.data.partition(0, 4), adamw, seed=0, trainable=masks)
    for name, value in read_adapter(task.model).items():
        assert np.array_equal(value, start[name]) == (".lora_A." in name), name
    assert adapter_tensors(task.model).keys() == start.keys()
