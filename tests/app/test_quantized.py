"""Backbones in 4 and 8 bits, trained for real: on the CPU where there is no GPU."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from transformers import AutoModelForCausalLM

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training import quantizing
from flasc_flwr.app.training.cores import factor_names, layers_of, sides_of
from flasc_flwr.app.training.export import load_for_evaluation, save
from flasc_flwr.app.training.gradient_bases import gradient_bases
from flasc_flwr.app.training.lora import adapter_tensors, read_adapter
from flasc_flwr.app.training.tuners.requirements import ON_PACKED
from flasc_flwr.core.layout import Layout
from tests.app.files import text_task
from tests.app.tiny import save_model, texts, write_jsonl

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    save_model(folder / "llama", "llama", hidden_size=64, intermediate_size=128)
    model = AutoModelForCausalLM.from_pretrained(folder / "llama")
    save_model(folder / "half", "llama", hidden_size=64, intermediate_size=128)
    model.bfloat16().save_pretrained(folder / "half")
    for kind in ("bert", "roberta"):
        save_model(folder / kind, kind, hidden_size=64)
    write_jsonl(folder / "t-train.jsonl", texts(24))
    write_jsonl(folder / "t-test.jsonl", texts(30, seed=1))
    return folder


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")


def build(folder, model="llama", **settings):
    settings = {"task": "causal-lm", "client_optimizer": "adamw"} | settings
    settings = {"lora_targets": "all-linear", "local_epochs": 2} | settings
    return text_task(folder / model, folder / "t-*.jsonl", **settings)


def linear_types(task):
    return {
        type(m.base_layer).__name__
        for m in task.model.modules()
        if hasattr(m, "base_layer")
    }


@needs_bitsandbytes
@pytest.mark.exhaustive
@pytest.mark.parametrize(("bits", "least"), [("4bit", 0.95), ("8bit", 0.75)])
def test_a_first_gradient_is_measured_at_packed_weights(folder, bits, least):
    """As with the same weights unpacked; 8 bits round a module's inputs, too."""
    settings = {"method": "fed-sb", "core_basis": "gradient", "lora_rank": 8}
    packed, whole = (build(folder, quantize=q, **settings) for q in (bits, "none"))
    full = {name: min(sides) for name, sides in sides_of(whole.model).items()}

    def measured(task):
        examples = whole.data.partition(0, 2)
        return gradient_bases(task.model, examples, task.config, task.score, full)

    first = measured(packed)  # 8-bit weights are packed in their first use
    unpacked = layers_of(whole.model)
    for name, layer in layers_of(packed.model).items():
        weight = unpacked[name].get_base_layer().weight
        weight.data.copy_(dequantize_module_weight(layer.get_base_layer()))
    second = measured(whole)
    assert all(p.grad is None for p in packed.model.parameters())
    for b, a in map(factor_names, full):
        signs = [np.sign(bases[b] @ bases[a]) for bases in (first, second)]
        assert np.mean(signs[0] == signs[1]) > least, b


@needs_bitsandbytes
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("bits", "settings"),
    [
        ("4bit", {}),
        ("8bit", {}),
        ("4bit", {"use_dora": True, "use_rslora": True}),
        ("4bit", {"method": "fed-sb", "lora_rank": 8}),
    ],
)
def test_a_quantized_backbone_is_trained_and_its_adapter_fits_the_whole_one(
    folder, tmp_path, bits, settings
):
    task = build(folder, quantize=bits, gradient_checkpointing=True, **settings)
    kind = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]
    assert linear_types(task) == {kind}
    assert {t.dtype for t in adapter_tensors(task.model).values()} == {torch.float32}
    federated = {t.data_ptr() for t in adapter_tensors(task.model).values()}
    frozen = {
        n: p.detach().clone()
        for n, p in task.model.named_parameters()
        if p.data_ptr() not in federated
    }
    before = task.evaluate(task.data.test).loss
    losses = [task.train(task.data.partition(0, 2), seed=s).loss for s in range(3)]
    assert losses[2] < losses[0]
    after = task.evaluate(task.data.test).loss
    assert after < before
    for name, parameter in frozen.items():
        assert torch.equal(task.model.get_parameter(name), parameter)

    save(task.model, tmp_path / "adapter", {}, task.scale)
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(folder / "llama")
    whole = build(folder, **settings)
    assert read_adapter(whole.model).keys() == read_adapter(task.model).keys()
    load_for_evaluation(whole.model, tmp_path / "adapter")
    loss = whole.evaluate(whole.data.test).loss
    assert loss == pytest.approx(after, rel=0.05) and loss < before
    base = AutoModelForCausalLM.from_pretrained(folder / "llama")
    plain = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokens = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        torch.testing.assert_close(
            plain(**tokens).logits, whole.model(**tokens).logits, rtol=1e-4, atol=1e-4
        )


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "close"), [("4bit", 1e-3), ("8bit", 0.1)])
def test_gradients_are_those_of_the_dequantized_backbone(folder, bits, close):
    """Also after an evaluation, which may put weights in another form."""
    task = build(folder, quantize=bits, max_steps=1, client_optimizer="sgd")
    start = read_adapter(task.model)
    rng = np.random.default_rng(0)
    start |= {n: rng.normal(0, 0.1, a.shape) for n, a in start.items() if "_B" in n}
    start = {name: a.astype(np.float32) for name, a in start.items()}

    def step(task):
        task.load_adapter(start)
        task.train(task.data.partition(0, 4), seed=0)
        layout = Layout.of(start)
        return layout.flatten(read_adapter(task.model)) - layout.flatten(start)

    first = step(task)
    task.evaluate(task.data.test)
    np.testing.assert_allclose(step(task), first, rtol=1e-4, atol=1e-7)
    plain = build(folder, max_steps=1, client_optimizer="sgd")
    with torch.no_grad():
        for name, module in task.model.named_modules():
            if hasattr(module, "base_layer"):
                weight = dequantize_module_weight(module.base_layer)
                plain.model.get_submodule(name).base_layer.weight.copy_(weight)
    error = np.linalg.norm(step(plain) - first) / np.linalg.norm(first)
    assert error < close


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_what_is_not_quantized_keeps_the_backbones_precision(folder, bits):
    task = build(folder, "half", quantize=bits)
    assert task.model.dtype == torch.bfloat16
    task.train(task.data.partition(0, 4), seed=0)
    exact = build(folder, "half", quantize=bits, backbone_precision="float32")
    assert exact.model.dtype == torch.float32


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("kind", "bits"),
    [("llama", "4bit"), ("bert", "4bit"), ("bert", "8bit"), ("roberta", "4bit")],
)
def test_a_classifiers_head_is_not_quantized(folder, kind, bits):
    settings = {"task": "text-classification", "lora_targets": "auto"}
    task = build(folder, kind, quantize=bits, **settings)
    heads = [n for n in read_adapter(task.model) if "lora" not in n]
    before = read_adapter(task.model)
    assert len(heads) == {"llama": 1, "bert": 2, "roberta": 4}[kind]
    assert all(before[name].dtype == np.float32 for name in heads)
    task.train(task.data.partition(0, 4), seed=0)
    after = read_adapter(task.model)
    assert all((after[name] != before[name]).any() for name in heads)


def test_what_changes_the_backbone_cannot_be_quantized(monkeypatch):
    monkeypatch.setattr(quantizing, "find_spec", lambda name: name)
    for method in ("full", "flora", "fedex-lora"):
        config = RunConfig.parse({"quantize": "4bit", "method": method})
        with pytest.raises(ValueError, match=f"quantize must be 'none' .*'{method}'"):
            quantizing.quantization(config)


def test_dora_is_refused_on_8_bits():
    config = RunConfig.parse({"quantize": "8bit", "use-dora": True})
    with pytest.raises(
        ValueError, match="quantize must be 'none' or '4bit' .*use-dora"
    ):
        quantizing.quantization(config)


def test_quantizing_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(quantizing, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"bitsandbytes, got '8bit': install it \(pip"):
        quantizing.quantization(RunConfig.parse({"quantize": "8bit"}))


PACKED = {"MISS": {"r": 8}, "VBLORA": {"vector_length": 8, "num_vectors": 16}}
PACKED |= {"FOURIERFT": {"n_frequency": 100}, "WAVEFT": {"n_frequency": 64}}
PACKED |= {"LN_TUNING": {"target_modules": ["input_layernorm"]}}


@needs_bitsandbytes
@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("kind", ON_PACKED)
def test_a_tuner_is_the_same_on_unpacked_weights(folder, tmp_path, kind, bits):
    def logits(task):
        with torch.no_grad():
            return task.model.eval()(input_ids=torch.tensor([[5, 6, 7, 8]])).logits

    if kind not in {each.value for each in PEFT_TYPE_TO_CONFIG_MAPPING}:
        pytest.skip(f"the installed PEFT has no {kind}; a later one has")
    text = json.dumps({"peft_type": kind} | PACKED.get(kind, {}))
    settings = {"peft_config": text, "lora_rank": 16, "lora_alpha": 16.0}
    settings |= {"lora_targets": "auto", "max_steps": 2, "client_learning_rate": 0.02}
    packed, whole = (build(folder, quantize=q, **settings) for q in (bits, "none"))
    start = logits(packed)
    packed.train(packed.data.partition(0, 2), seed=0)
    expected = logits(packed)
    save(packed.model, tmp_path / "adapter", {}, packed.scale)
    load_for_evaluation(whole.model, tmp_path / "adapter")
    unpacked = dict(whole.model.named_modules())
    for name, module in packed.model.named_modules():
        packs = type(module).__name__ in ("Linear4bit", "Linear8bitLt")
        if packs and not isinstance(module, BaseTunerLayer):
            unpacked[name].weight.data.copy_(dequantize_module_weight(module))
    moved = (expected - start).abs().max()
    # 8 bits round a module's inputs, too.
    tolerance = 1e-3 if bits == "4bit" else max(0.1 * moved, 0.15)
    assert (logits(whole) - expected).abs().max() < tolerance
    assert moved > 1e-3
