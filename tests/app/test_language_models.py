"""Language models as people have them, by small random configurations."""

import pytest
import torch
import transformers

from flasc_flwr.app.training.export import save
from flasc_flwr.app.training.lora import read_adapter
from tests.app.architectures import save_architecture
from tests.app.files import text_task
from tests.app.tiny import VOCABULARY, save_tokenizer, texts, write_jsonl

KINDS = {
    # kind: adapted by default, adapted with all-linear
    "llama": ({"q_proj", "v_proj"}, 7),
    "mistral": ({"q_proj", "v_proj"}, 7),
    "qwen2": ({"q_proj", "v_proj"}, 7),
    "qwen3": ({"q_proj", "v_proj"}, 7),
    "gemma2": ({"q_proj", "v_proj"}, 7),
    "phi": ({"q_proj", "v_proj", "fc1", "fc2"}, 6),
    "phi3": ({"qkv_proj", "o_proj"}, 4),
}
HEADS = {"tied": True, "untied": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language-models")
    write_jsonl(folder / "t-train.jsonl", texts(12))
    write_jsonl(folder / "t-test.jsonl", texts(6, seed=1))
    return folder


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")


def build(folder, kind, head="tied", **settings):
    model = folder / f"{kind}-{head}"
    if not model.exists():
        save_architecture(model, kind, tie_word_embeddings=HEADS[head])
    settings = {"task": "causal-lm", "client_optimizer": "adamw"} | settings
    return text_task(model, folder / "t-*.jsonl", **settings)


def short_targets(task):
    return {name.rpartition(".")[2] for name in task.model.targeted_module_names}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_is_trained_and_the_head_is_not(folder, kind, head):
    task = build(folder, kind, head, gradient_checkpointing=True)
    assert short_targets(task) == KINDS[kind][0]
    base = task.model.get_base_model()
    tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert tied == HEADS[head]
    before = base.get_output_embeddings().weight.detach().clone()
    arrays = read_adapter(task.model)
    assert all("lora_" in name for name in arrays)
    first = task.train(task.data.partition(0, 1), seed=0).loss
    assert task.train(task.data.partition(0, 1), seed=0).loss < first
    assert torch.equal(base.get_output_embeddings().weight, before)
    assert any((a != arrays[n]).any() for n, a in read_adapter(task.model).items())


@pytest.mark.parametrize("kind", KINDS)
def test_padding_has_no_effect_on_the_loss(folder, kind):
    task = build(folder, kind)
    examples = task.data.partition(0, 1)
    total = count = 0.0
    for number in range(len(examples)):
        one = task.evaluate(examples.select([number]))
        tokens = int(
            (examples.batch(torch.tensor([number]))["labels"][:, 1:] >= 0).sum()
        )
        total, count = total + one.loss * tokens, count + tokens
    assert task.evaluate(examples).loss == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_modules_in_each_precision(folder, tmp_path, kind, precision):
    task = build(folder, kind, lora_targets="all-linear", backbone_precision=precision)
    assert len(short_targets(task)) == KINDS[kind][1]
    assert "lm_head" not in short_targets(task)
    outcome = task.train(task.data.partition(0, 1), seed=0)
    assert outcome.loss > 0
    assert {a.dtype.name for a in read_adapter(task.model).values()} == {"float32"}
    save(task.model, tmp_path / "adapter", {}, task.scale)


@pytest.mark.parametrize("kind", KINDS)
def test_it_generates_with_a_cache_what_it_would_without(folder, kind):
    task = build(folder, kind, gradient_checkpointing=True)
    task.train(task.data.partition(0, 1), seed=0)
    tokens = {"input_ids": torch.tensor([[5, 6, 7]])}
    tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    settings = {"max_new_tokens": 4, "do_sample": False}
    cached = task.model.generate(**tokens, **settings, use_cache=True)
    assert torch.equal(
        cached, task.model.generate(**tokens, **settings, use_cache=False)
    )


OTHER_NAMES = {
    "bert": {"is_decoder": True},  # its output layer is in a larger module
    "rwkv": {"context_length": 32},
    "modernbert-decoder": {"max_position_embeddings": 32},
}


@pytest.mark.parametrize(
    "kind", [kind for kind in OTHER_NAMES if kind in transformers.CONFIG_MAPPING]
)
def test_an_output_layer_of_another_name_stays_frozen(folder, kind):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "vocab_size": len(VOCABULARY)}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
    tokens |= dict.fromkeys(("cls_token_id", "sep_token_id"), 1)
    config = transformers.AutoConfig.for_model(
        kind, **sizes, **tokens, **OTHER_NAMES[kind]
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / kind)
    save_tokenizer(folder / kind, decoder=True)
    task = text_task(folder / kind, folder / "t-*.jsonl", task="causal-lm")
    assert all("lora_" in name for name in read_adapter(task.model))
    base = task.model.get_base_model()
    before = base.get_output_embeddings().weight.detach().clone()
    task.train(task.data.partition(0, 2), seed=0)
    assert torch.equal(base.get_output_embeddings().weight, before)
