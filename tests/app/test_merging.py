import numpy as np
import pytest
import torch
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from flasc_flwr.app.runs.merged_model import merged_into
from flasc_flwr.app.training.merging import Merging, shared
from tests.app.built import language_task


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.linear(x)


def test_original_weights_are_copied_once_not_on_each_message(monkeypatch):
    model = get_peft_model(Tiny(), LoraConfig(r=1, target_modules=["linear"]))
    name = "base_model.model.linear"
    weight = model.get_submodule(name).get_base_layer().weight
    original = weight.detach().clone()
    clones = []
    clone = torch.Tensor.clone

    def counting(tensor, *args, **kwargs):
        clones.append(tuple(tensor.shape))
        return clone(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "clone", counting)
    merging = Merging(model)
    product = np.arange(6, dtype=np.float32).reshape(2, 3)
    for scale in (1.0, 2.0, 3.0):
        merging.apply({f"{name}.merged": product}, scale)
        expected = original + scale * torch.from_numpy(product)
        torch.testing.assert_close(weight, expected)
    merging.apply({}, 1.0)
    assert torch.equal(weight, original)
    assert clones == [(2, 3)]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LoraConfig(target_modules=["c_attn"]), None),
        (LoraConfig(target_modules=["c_attn"], trainable_token_indices=[1]), None),
        (TrainableTokensConfig(target_modules=["wte"], token_indices=[1]), None),
        (LoraConfig(target_modules=["wte"]), "base_model.model.transformer.wte"),
        (LoraConfig(target_modules=["lm_head"]), "base_model.model.lm_head"),
    ],
)
def test_adapted_weights_that_another_module_has_are_named(config, name):
    """One check for what is merged in a run, and for an export."""
    sizes = {"vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = get_peft_model(GPT2LMHeadModel(GPT2Config(**sizes)), config)
    assert shared(model) == name
    if name is None:
        return
    with pytest.raises(ValueError, match=f"--merged must not .*{name}'.* shares"):
        merged_into(model)


@pytest.mark.parametrize("method", ["flora", "fedex-lora"])
def test_products_are_not_merged_into_tied_embeddings(root, built_cache, method):
    """They would change what the model reads, too, and no export would have that."""
    with pytest.raises(
        ValueError, match=f"lora-targets must not .*'{method}'.*share.*'base.*lm_head'"
    ):
        language_task(root, "gpt2", lora_targets="lm_head", method=method)
    language_task(root, "gpt2", lora_targets="lm_head", method="dense")
    language_task(root, "llama", lora_targets="lm_head", method=method)
