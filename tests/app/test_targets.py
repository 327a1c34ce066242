"""Which modules ``lora-targets`` selects, for architectures of their usual sizes."""

import pytest
import torch
import transformers

from flasc_flwr.app.training.attention import attention_names, linear_names, matches
from flasc_flwr.app.training.targets import targets_of

CLASSIFIER = "AutoModelForSequenceClassification"
LANGUAGE = "AutoModelForCausalLM"
IMAGE = "AutoModelForImageClassification"

# These were chosen before there was a search by structure, and stay.
BY_TABLE = {
    "gpt2": "c_attn,c_proj,c_fc",
    "albert": "query,key,value",
    "bart": "q_proj,v_proj",
    "bert": "query,value",
    "bloom": "query_key_value",
    "deberta": "in_proj",
    "deberta-v2": "query_proj,value_proj",
    "distilbert": "q_lin,k_lin,v_lin",
    "electra": "query,value",
    "falcon": "query_key_value",
    "gemma": "q_proj,v_proj",
    "gemma2": "q_proj,v_proj",
    "gemma3_text": "q_proj,v_proj",
    "gpt_bigcode": "c_attn",
    "gpt_neo": "q_proj,v_proj",
    "gpt_neox": "query_key_value",
    "gptj": "q_proj,v_proj",
    "layoutlm": "query,value",
    "llama": "q_proj,v_proj",
    "mistral": "q_proj,v_proj",
    "mixtral": "q_proj,v_proj",
    "mpt": "Wqkv",
    "mt5": "q,v",
    "opt": "q_proj,v_proj",
    "phi": "q_proj,v_proj,fc1,fc2",
    "qwen2": "q_proj,v_proj",
    "qwen3": "q_proj,v_proj",
    "roberta": "query,value",
    "stablelm": "q_proj,v_proj",
    "t5": "q,v",
    "xlm-roberta": "query,value",
    "codegen": "qkv_proj",
    "vit": "q_proj,v_proj",
}
BY_STRUCTURE = {
    "modernbert": "Wqkv,attn.Wo",
    "mpnet": "q,k,v,o",
    "phi3": "o_proj,qkv_proj",
    "olmo2": "q_proj,k_proj,v_proj,o_proj",
    "smollm3": "q_proj,k_proj,v_proj,o_proj",
    "granite": "q_proj,k_proj,v_proj,o_proj",
    "starcoder2": "q_proj,k_proj,v_proj,o_proj",
    "deit": "q_proj,k_proj,v_proj,o_proj",
    "beit": "q_proj,k_proj,v_proj,o_proj",
    "dinov2": "q_proj,k_proj,v_proj,o_proj",
    "swin": "q_proj,k_proj,v_proj,o_proj",
    "swinv2": "query,key,value,attention.output.dense",
    "hiera": "qkv,attn.proj",
    "camembert": "query,key,value,attention.output.dense",
    "nomic_bert": "q_proj,k_proj,v_proj,o_proj",
    "funnel": "q_head,k_head,v_head,post_proj",
    "openai-gpt": "c_attn,attn.c_proj",
    "mbart": "k_proj,v_proj,q_proj,self_attn.out_proj,encoder_attn.out_proj",
    "deepseek_v3": "q_a_proj,q_b_proj,kv_a_proj_with_mqa,kv_b_proj,o_proj",
    "persimmon": "query_key_value,dense",
}
ALL_LINEAR = ("fnet", "xlnet", "convnext", "squeezebert")


def built(kind):
    """Return a model of the architecture's usual sizes, without its weights."""
    config = transformers.AutoConfig.for_model(kind)
    config.architectures = []
    for name in ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers"):
        if kind != "funnel" and isinstance(getattr(config, name, None), int):
            setattr(config, name, 2)
    if hasattr(config, "layer_types") and kind == "gemma3_text":
        config.layer_types = config.layer_types[:2]
    autos = (CLASSIFIER, IMAGE, LANGUAGE)
    fitting = (
        auto
        for auto in autos
        if type(config) in set(getattr(transformers, auto)._model_mapping.keys())
    )
    with torch.device("meta"):
        return getattr(transformers, next(fitting)).from_config(config)


@pytest.mark.parametrize("kind", list(BY_TABLE))
def test_the_choices_for_known_architectures_stay(kind):
    assert targets_of(built(kind), "auto") == BY_TABLE[kind].split(",")


@pytest.mark.parametrize("kind", list(BY_STRUCTURE))
def test_other_architectures_get_the_linear_modules_of_attention(kind):
    model = built(kind)
    names = targets_of(model, "auto")
    assert sorted(names) == sorted(BY_STRUCTURE[kind].split(","))
    # PEFT selects by the ends of names: nothing else has one of these.
    for name, module in model.named_modules():
        if any(matches(name, end) for end in names):
            assert isinstance(module, torch.nn.Linear) or kind == "openai-gpt", name
            assert "att" in name.lower(), name
            assert "mlp" not in name and "intermediate" not in name, name


@pytest.mark.parametrize("kind", ALL_LINEAR)
def test_without_linear_attention_all_linear_modules_are_adapted(kind):
    model = built(kind)
    assert targets_of(model, "auto") == "all-linear"
    assert attention_names(model, linear_names(model, ["classifier"])) == []


def test_all_linear_can_be_asked_for():
    assert targets_of(built("bert"), "all-linear") == "all-linear"


def test_ends_of_names_can_be_asked_for():
    model = built("modernbert")
    assert targets_of(model, "attn.Wo, Wqkv") == ["attn.Wo", "Wqkv"]
    with pytest.raises(ValueError, match=r"lora-targets .* \(.*Wo, Wqkv.*'tn.Wo'"):
        targets_of(model, "tn.Wo")


def test_the_head_does_not_count_as_a_linear_module():
    expected = r"linear modules outside its head for LoRA, got a 'resnet' model"
    for wanted in ("auto", "all-linear"):
        with pytest.raises(ValueError, match=expected):
            targets_of(built("resnet"), wanted)


def test_it_is_said_if_only_modules_outside_the_layers_are_adapted(caplog):
    sizes = {"hidden_size": 8, "embedding_size": 8, "intermediate_size": 8}
    config = transformers.SqueezeBertConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=4, vocab_size=8
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    targets_of(model, "auto")
    assert "LoRA adapts only transformer.pooler.dense" in caplog.text
