"""Architectures whose names, sizes and padding are not those of BERT."""

import numpy as np
import pytest
import torch

from tests.app.architectures import DECODERS, IMAGES, save_architecture
from tests.app.files import image_task, text_task
from tests.app.tiny import images, save_tokenizer, texts, write_jsonl

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    write_jsonl(folder / "t-train.jsonl", texts(12))
    write_jsonl(folder / "t-test.jsonl", texts(6, seed=1))
    (x, y), (x_test, y_test) = images(8), images(4, seed=1)
    np.savez(folder / "i.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return folder


@pytest.fixture
def own_cache(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")


def model_of(folder, kind):
    if not (folder / kind).exists():
        save_architecture(folder / kind, kind)
    return folder / kind


def build(folder, kind, **settings):
    model = model_of(folder, kind)
    if kind in IMAGES:
        return image_task(model, folder / "i.npz", **settings)
    return text_task(model, folder / "t-*.jsonl", **settings)


TARGETS = {
    "modernbert": {"Wqkv", "attn.Wo"},
    "mpnet": {"q", "k", "v", "o"},
    "camembert": {"query", "key", "value", "attention.output.dense"},
    "longformer": {"query", "key", "value", "attention.output.dense"},
    "deberta-v2": {"query_proj", "value_proj"},
    "xlnet": {"layer_1", "layer_2"},  # its attention has no linear modules
    "funnel": {"q_head", "k_head", "v_head", "post_proj"},
    "t5": {"q", "v"},
    "bart": {"q_proj", "v_proj"},
    "phi3": {"qkv_proj", "o_proj"},
    "olmo2": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "smollm3": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "granite": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "starcoder2": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mixtral": {"q_proj", "v_proj"},
    "opt": {"q_proj", "v_proj"},
    "mamba": {"in_proj", "x_proj"},
    "gemma3": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "deit": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "beit": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "dinov2": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "swin": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "swinv2": {"query", "key", "value", "attention.output.dense"},
    "convnext": {"pwconv1", "pwconv2"},
    "siglip": {"q_proj", "k_proj", "v_proj", "out_proj"},
}


@pytest.mark.parametrize("kind", list(TARGETS))
def test_automatic_targets_are_found_and_trained(folder, kind):
    settings = {"task": "causal-lm"} if kind in DECODERS else {}
    task = build(folder, kind, client_optimizer="adamw", **settings)
    adapted = task.model.targeted_module_names
    for name in adapted:
        assert any(f".{name}".endswith(f".{end}") for end in TARGETS[kind]) or (
            # Longformer has further ones for tokens that see the whole text.
            kind == "longformer" and name.endswith("_global")
        ), name
    for end in TARGETS[kind]:
        assert any(f".{name}".endswith(f".{end}") for name in adapted), end
    if kind == "gemma3":
        assert not any("vision" in name for name in adapted)
    before = task.evaluate(task.data.test).loss
    task.train(task.data.partition(0, 2), seed=0)
    after = task.evaluate(task.data.test).loss
    assert np.isfinite(after) and after != before


PADDED = [
    *(("stock", k) for k in ("modernbert", "xlnet", "fnet", "convbert", "canine")),
    *(("stock", k) for k in ("t5", "bart", "gemma3")),
    *(("mean", k) for k in ("funnel", "convbert", "canine", "t5", "opt", "mixtral")),
]


@pytest.mark.parametrize(("head", "kind"), PADDED)
def test_no_result_depends_on_the_other_texts_of_a_batch(folder, kind, head):
    settings = {"lora_targets": "query,value"} if kind == "canine" else {}
    task = build(folder, kind, head=head, max_length=12, **settings)
    examples = task.data.test
    task.model.eval()
    with torch.no_grad():
        together = task.model(**examples.batch(torch.arange(6))).logits
        for row in range(6):
            alone = task.model(**examples.batch(torch.tensor([row]))).logits[0]
            torch.testing.assert_close(alone, together[row], rtol=1e-3, atol=1e-4)
    assert together.shape == (6, 2)


def test_a_decoder_that_reads_from_the_left_is_padded_there(folder):
    task = build(folder, "xlnet")
    batch = task.data.test.batch(torch.arange(6))
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    # The last token of each text is its own, not padding.
    assert batch["attention_mask"][:, -1].all()


POSITIONS = {
    "modernbert": 32,
    "mpnet": 30,  # the first two of 32 positions are those of padding
    "camembert": 30,
    "longformer": 32,
    "deberta-v2": 32,
    "xlnet": None,  # its config says -1
    "t5": None,
    "bart": 32,
    "fnet": 32,
    "opt": 32,  # of a table of 34
    "phi3": 32,
    "gemma3": 32,
}


@pytest.mark.parametrize("kind", list(POSITIONS))
def test_positions_that_are_really_usable(folder, kind):
    most = POSITIONS[kind]
    head = "mean" if kind in DECODERS else "stock"
    task = build(folder, kind, max_length=most or 200, head=head)
    long = [{"text": " ".join(["cat"] * 300), "label": 0}] * 2
    path = write_jsonl(folder / "long.jsonl", long)
    examples = task.data.local_examples(str(path))
    batch = examples.batch(torch.arange(2))
    assert batch["input_ids"].shape[1] == (most or 200)
    assert np.isfinite(task.evaluate(examples).loss)
    if most:
        with pytest.raises(ValueError, match=f"max-length must be at most {most} "):
            build(folder, kind, max_length=most + 1, head=head)


def test_the_mean_has_the_width_of_what_leaves_the_encoder(folder):
    task = build(folder, "opt", head="mean")
    layer = task.model.base_model.model.classifier.modules_to_save["default"]
    assert layer.in_features == 8 != task.model.config.hidden_size


def test_an_encoder_decoders_mean_is_that_of_its_encoder(folder):
    task = build(folder, "t5", head="mean")
    assert not any("decoder" in name for name, _ in task.model.named_parameters())


def test_a_classifier_that_transformers_does_not_have(folder):
    expected = r"AutoModelForSequenceClassification .*\(or set head to 'mean'\), got "
    with pytest.raises(ValueError, match=expected):
        build(folder, "granite")
    build(folder, "granite", head="mean")


def test_without_linear_modules_lora_is_refused_and_the_head_can_be_trained(folder):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    ResNetForImageClassification(config).save_pretrained(folder / "resnet")
    (folder / "resnet/preprocessor_config.json").write_text(
        '{"image_processor_type": "ConvNextImageProcessor",'
        ' "size": {"shortest_edge": 16}, "do_normalize": false}'
    )
    with pytest.raises(ValueError, match="linear modules outside its head .* 'linear'"):
        image_task(folder / "resnet", folder / "i.npz")
    task = image_task(folder / "resnet", folder / "i.npz", method="linear")
    batch = task.data.test.batch(torch.arange(4))
    # Its size is that of its preprocessor, which does not normalise.
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    assert batch["pixel_values"].min() >= 0 and batch["pixel_values"].max() <= 1
    for crops, size in ((True, 12), (False, 16)):
        (folder / "resnet/preprocessor_config.json").write_text(
            '{"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12},'
            f' "do_center_crop": {str(crops).lower()}}}'
        )
        task = image_task(folder / "resnet", folder / "i.npz", method="linear")
        batch = task.data.test.batch(torch.arange(1))
        assert batch["pixel_values"].shape == (1, 3, size, size)


def test_an_encoder_is_no_language_model(root, tmp_path):
    from transformers import AutoModelForMaskedLM

    with pytest.raises(ValueError, match="output layer of a language model, got"):
        text_task(root / "bert", root / "t-*.jsonl", task="causal-lm")
    AutoModelForMaskedLM.from_pretrained(root / "bert").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="must be causal for task 'causal-lm', got"):
        text_task(tmp_path, root / "t-*.jsonl", task="causal-lm")
