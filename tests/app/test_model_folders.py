"""Folders of models that are incomplete, damaged, or not what they say."""

import json
import re
import shutil

import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from flasc_flwr.app.tasks.image_inputs import save_preprocessor
from flasc_flwr.app.training.lora import read_adapter
from tests.app.architectures import save_architecture
from tests.app.files import image_folder, image_task, text_task
from tests.app.tiny import save_model, save_tokenizer, write_jsonl

pytestmark = pytest.mark.usefixtures("built_cache")


@pytest.fixture
def model(root, tmp_path):
    """Return a copy of a model, to break it."""
    return shutil.copytree(root / "bert", tmp_path / "bert")


def build(root, model, **settings):
    return text_task(model, root / "t-*.jsonl", **settings)


def refused(root, model, expected, **settings):
    with pytest.raises(ValueError, match=expected) as raised:
        build(root, model, **settings)
    # One sentence, with the folder.
    assert str(model) in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(model, edit):
    weights = load_file(model / "model.safetensors")
    save_file(edit(weights), model / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "albert", "gpt2"])
@pytest.mark.parametrize("config", [True, False])
def test_a_model_folder_without_tokenizer_files_is_refused(
    root, tmp_path, kind, config
):
    model = save_model(tmp_path / kind, kind)
    for file in model.glob("*token*"):
        file.unlink()
    if config:
        (model / "tokenizer_config.json").write_text("{}")
    refused(root, model, r"model must come with its tokenizer \(.*tokenizer.json.*\)")


def test_a_config_of_a_tokenizer_without_its_vocabulary_is_refused(root, model):
    (model / "tokenizer.json").unlink()
    assert (model / "tokenizer_config.json").is_file()
    refused(root, model, r"model must come with its tokenizer \(tokenizer.json\)")


def test_a_tokenizer_that_cannot_be_read_is_named(root, model):
    (model / "tokenizer.json").write_text("{")
    refused(root, model, "could not be loaded")


def test_an_adapter_folder_is_no_model(root, tmp_path):
    base = AutoModel.from_pretrained(root / "bert")
    adapter = get_peft_model(base, LoraConfig(target_modules=["query"]))
    adapter.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    refused(
        root, tmp_path, "model must be a whole model, .* PEFT adapter .*set adapter"
    )
    # Also if a config of the model lies beside it.
    base.config.save_pretrained(tmp_path)
    refused(root, tmp_path, "model must be a whole model, .* PEFT adapter")


def test_another_number_of_classes_gets_a_new_head_and_says_so(
    root, model, tmp_path, caplog
):
    four = AutoModelForSequenceClassification.from_pretrained(model, num_labels=4)
    four.save_pretrained(tmp_path / "four")
    save_tokenizer(tmp_path / "four")
    task = build(root, tmp_path / "four")
    head = read_adapter(task.model)["base_model.model.classifier.weight"]
    assert head.shape == (2, 16)
    assert "gets a new head (classifier.bias, classifier.weight)" in caplog.text
    kept = four.bert.encoder.layer[0].attention.self.query.weight
    layers = dict(task.model.named_modules())
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    assert torch.equal(layers[query].get_base_layer().weight, kept)


def test_the_head_of_a_checkpoint_is_kept_if_it_has_as_many_classes(
    root, model, tmp_path, caplog
):
    two = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    # A checkpoint of another problem: its loss would be another.
    two.config.problem_type = "regression"
    two.save_pretrained(tmp_path / "two")
    save_tokenizer(tmp_path / "two")
    task = build(root, tmp_path / "two")
    head = read_adapter(task.model)["base_model.model.classifier.weight"]
    assert torch.equal(torch.from_numpy(head), two.classifier.weight)
    assert "new head" not in caplog.text
    batch = task.data.test.batch(torch.arange(30))
    output = task.model(**batch)
    expected = torch.nn.functional.cross_entropy(output.logits, batch["labels"])
    assert torch.equal(output.loss, expected)


def test_a_kept_head_has_the_classes_of_the_run_in_its_order(
    root, model, tmp_path, caplog
):
    """Its row for "bad" would be trained as that for "good"."""
    two = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    save_tokenizer(tmp_path / "two")
    build(root, tmp_path / "two", class_names="1,0")
    change(tmp_path / "two" / "config.json", id2label={"0": "Bad", "1": "good"})
    build(root, tmp_path / "two", class_names="0,1")
    expected = r"The head of model .* is kept, though its classes \(Bad, good\) are not"
    assert re.search(expected, caplog.text)
    rows = [{"text": f"t {n}", "label": ("bad", "good")[n % 2]} for n in range(40)]
    for part in ("train", "test"):
        (tmp_path / f"named-{part}.jsonl").write_text(
            "\n".join(json.dumps(row) for row in rows)
        )
    named = tmp_path / "named-*.jsonl"
    text_task(tmp_path / "two", named, class_names="bad,good")
    with pytest.raises(ValueError, match="class-names must be in the order of the hea"):
        text_task(tmp_path / "two", named, class_names="good,bad")


@pytest.mark.parametrize("settings", [{}, {"classes": 2}])
def test_a_kept_head_has_the_order_that_the_data_stores(
    root, model, tmp_path, settings
):
    """Also where ``classes`` says how many there are, so that nothing is counted."""
    two = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    save_tokenizer(tmp_path / "two")
    features = Features(text=Value("string"), label=ClassLabel(names=["good", "bad"]))
    rows = {"text": ["t 0", "t 1"] * 20, "label": [0, 1] * 20}
    for part in ("train", "test"):
        stored = Dataset.from_dict(rows, features)
        stored.to_parquet(tmp_path / f"named-{part}.parquet")
    named = tmp_path / "named-*.parquet"
    for labels, fits in (
        ({"0": "LABEL_0", "1": "LABEL_1"}, True),
        ({"0": "Good", "1": "bad"}, True),
        ({"0": "bad", "1": "good"}, False),
    ):
        change(tmp_path / "two" / "config.json", id2label=labels)
        if fits:
            assert len(text_task(tmp_path / "two", named, **settings).data.test) == 40
            continue
        expected = "class-names must be in the order .*bad, good, got good, bad, as the"
        with pytest.raises(ValueError, match=expected):
            assert text_task(tmp_path / "two", named, **settings).data.test
    # A head of its own has no order yet.
    task = text_task(tmp_path / "two", named, head="mean", **settings)
    assert len(task.data.test) == 40


@pytest.mark.parametrize("names", [{"0": "cat", "1": "dog"}, {"0": "a", "3": "b"}])
def test_a_model_names_its_answers_as_the_run_does(model, tmp_path, names):
    """Names of a checkpoint's head, which would be those of a saved model."""
    two = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    save_tokenizer(tmp_path / "two")
    change(tmp_path / "two" / "config.json", id2label=names)
    rows = [{"text": f"t {n}", "label": ("bad", "good")[n % 2]} for n in range(40)]
    for part in ("train", "test"):
        write_jsonl(tmp_path / f"named-{part}.jsonl", rows)
    task = text_task(
        tmp_path / "two", tmp_path / "named-*.jsonl", class_names="bad,good"
    )
    task.model.config.save_pretrained(tmp_path / "saved")
    saved = AutoConfig.from_pretrained(tmp_path / "saved")
    assert saved.id2label == {0: "bad", 1: "good"}
    assert saved.label2id == {"bad": 0, "good": 1}


def test_an_image_model_names_its_answers_as_the_folders_of_classes(root, tmp_path):
    for part in ("train", "test"):
        image_folder(tmp_path, part, ["cat", "dog", "owl"])
    task = image_task(root / "vit", tmp_path)
    assert task.model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}


def test_a_text_with_the_end_token_of_a_model_that_counts_them_is_named(tmp_path):
    save_architecture(tmp_path / "bart", "bart")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bart")
    end = AutoConfig.from_pretrained(tmp_path / "bart").eos_token_id
    rows = [{"text": "w1 w2", "label": n % 2} for n in range(8)]
    for part in ("train", "test"):
        write_jsonl(tmp_path / f"t-{part}.jsonl", rows)
    task = text_task(tmp_path / "bart", tmp_path / "t-*.jsonl")
    task.measure(task.data.test)
    rows[5]["text"] += f" {tokenizer.convert_ids_to_tokens(end)} w1"
    own = write_jsonl(tmp_path / "own.jsonl", rows)
    with pytest.raises(ValueError, match="row 5 .* must have as many end tokens as mo"):
        task.data.local_examples(str(own))


@pytest.mark.parametrize("head", ["stock", "mean"])
def test_a_checkpoint_of_another_architecture_is_refused(root, model, head):
    shutil.copy(root / "gpt2/model.safetensors", model / "model.safetensors")
    refused(root, model, r"all weights of a 'bert' .*without \d+ of them", head=head)


def test_a_checkpoint_without_some_layers_is_refused(root, model):
    change(model / "config.json", num_hidden_layers=3)
    refused(root, model, "without .* of them, such as .*encoder.layer.2")


def test_weights_of_other_sizes_than_the_config_are_refused(root, model):
    change(model / "config.json", max_position_embeddings=64)
    expected = r"position_embeddings.weight has shape \(32, 16\) instead of \(64, 16\)"
    refused(root, model, expected)


def test_layers_that_the_config_leaves_out_are_said(root, model, caplog):
    change(model / "config.json", num_hidden_layers=1)
    build(root, model)
    assert "16 weights of its checkpoint are not used, such as" in caplog.text
    assert "encoder.layer.1." in caplog.text


def test_outputs_have_names_whatever_the_config_says(root, model):
    change(model / "config.json", return_dict=False)
    for head in ("stock", "mean"):
        task = build(root, model, head=head)
        assert task.evaluate(task.data.test).loss > 0


def test_row_3_a_relative_path_is_not_a_model(root, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    for name in ("bert", "./bert"):
        with pytest.raises(ValueError, match="model must be an absolute path, since"):
            build(root, name)


def test_a_model_in_a_folder_below_is_named(root, model):
    shutil.copytree(model, model.parent / "outer/0_Transformer")
    expected = "with a config.json, got .*: set it to its folder '0_Transformer'"
    refused(root, model.parent / "outer", expected)


def test_a_pooler_that_is_not_in_the_checkpoint_is_said(root, model, caplog):
    change_weights(
        model, lambda all: {n: t for n, t in all.items() if "pooler" not in n}
    )
    build(root, model)
    assert "no weights for bert.pooler.dense.bias" in caplog.text
    assert "start at random and stay frozen" in caplog.text
    caplog.clear()
    build(root, model, head="mean")  # which does not use it
    assert "random" not in caplog.text


def test_weights_with_nan_are_refused(root, model):
    change_weights(model, lambda all: {n: t * float("nan") for n, t in all.items()})
    refused(root, model, "model must have finite outputs, .*NaN or infinity")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("model.safetensors", b"\0" * 4, "could not be loaded: SafetensorError"),
        ("model.safetensors", None, "could not be loaded: .*no file named"),
        ("config.json", b"{", "could not be loaded: .*valid JSON"),
        ("config.json", b"{}", "could not be loaded: .*model_type"),
        ("config.json", None, "must be a folder with a config.json"),
        ("config.json", b'{"model_type": "new"}', "could not be loaded: .*`new`"),
    ],
)
def test_damaged_and_missing_files_are_named(root, model, file, content, expected):
    (model / file).unlink()
    if content is not None:
        (model / file).write_bytes(content)
    message = refused(root, model, expected)
    # It is a folder: advice about a network would lead astray.
    assert "network" not in message


def test_code_in_a_model_folder_is_not_run_and_not_asked_about(
    root, model, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    change(
        model / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"},
    )
    (model / "own.py").write_text("raise SystemExit('it was run')")
    refused(root, model, "could not be loaded: .*custom code")


@pytest.mark.parametrize(
    ("kind", "task", "expected"),
    [
        ("vit", "text-classification", "loads with AutoModelForSequenceClass"),
        ("vit", "causal-lm", "loads with AutoModelForCausalLM"),
        ("bert", "image-classification", "loads with AutoModelForImageClassification"),
    ],
)
def test_a_model_for_another_kind_of_input_is_refused(
    root, tmp_path, kind, task, expected
):
    model = shutil.copytree(root / kind, tmp_path / kind)
    if not (model / "tokenizer.json").exists():
        save_tokenizer(model)
    with pytest.raises(ValueError, match=rf"{expected}.*, got .*a '{kind}' model"):
        if task == "image-classification":
            image_task(model, root / "i.npz")
        else:
            build(root, model, task=task)


def test_an_image_model_is_not_normalised_for_other_channels(root, tmp_path):
    model = save_model(tmp_path / "vit", "vit", num_channels=1)
    expected = "image_mean and an image_std for its 1 channels, got .*0.4, 0.5, 0.6"
    with pytest.raises(ValueError, match=expected):
        image_task(model, root / "i.npz")


def test_a_gray_model_does_not_get_the_mean_of_three_channels(root, tmp_path):
    model = save_model(tmp_path / "vit", "vit", num_channels=1)
    settings = {"image_processor_type": "CLIPImageProcessor"}
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    batch = image_task(model, root / "i.npz").data.test.batch(torch.arange(5))
    assert batch["pixel_values"].shape == (5, 1, 16, 16)
    assert -1 <= batch["pixel_values"].min() < -0.5


@pytest.mark.parametrize(
    ("settings", "black", "white"),
    [
        ({}, -1, 1),
        ({"do_normalize": False}, 0, 1),
        ({"image_mean": 0.5, "image_std": 0.25}, -2, 2),
        # As EfficientNet's: to [-1, 1] before it is normalised.
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, -3, 1),
        ({"do_rescale": False, "do_normalize": False}, 0, 255),
    ],
)
def test_images_are_brought_to_the_range_of_the_models_training(
    root, tmp_path, settings, black, white
):
    import numpy as np

    model = save_model(tmp_path / "vit", "vit")
    kind = {"image_processor_type": "ViTImageProcessor"}
    (model / "preprocessor_config.json").write_text(json.dumps(kind | settings))
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    pixels[1] = 255
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=np.arange(2))
    task = image_task(model, root / "i.npz")
    examples = task.data.local_examples(str(tmp_path / "x.npz"))
    batch = examples.batch(torch.arange(2))["pixel_values"]
    torch.testing.assert_close(batch[0], torch.full((3, 16, 16), float(black)))
    torch.testing.assert_close(batch[1], torch.full((3, 16, 16), float(white)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        # Blue first, and not normalised, though its file says neither.
        ("MobileViTImageProcessor", {}),
        ("MobileViTFeatureExtractor", {"do_flip_channel_order": False}),
        # Divided by the deviation twice.
        ("EfficientNetImageProcessor", {"image_std": [0.4, 0.3, 0.2]}),
        ("EfficientNetImageProcessor", {"do_normalize": False}),
        ("EfficientNetImageProcessor", {"include_top": False}),
        # Means that stand in its class.
        ("CLIPImageProcessor", {}),
        ("CLIPFeatureExtractor", {"do_normalize": None}),
        ("ConvNextImageProcessorFast", {"image_mean": [0, 0, 0]}),
        ("LevitImageProcessor", {"image_std": 0.25, "image_mean": 0}),
    ],
)
def test_images_become_what_the_models_own_preprocessor_makes_of_them(
    root, tmp_path, name, settings
):
    import numpy as np
    from PIL import Image

    model = save_model(tmp_path / "vit", "vit")
    kind = {"image_processor_type": name, "size": 16, "crop_size": 16}
    (model / "preprocessor_config.json").write_text(json.dumps(kind | settings))
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    pixels[:] = [[[[250, 120, 10]]], [[[0, 200, 90]]]]
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=np.arange(2))
    task = image_task(model, root / "i.npz")
    examples = task.data.local_examples(str(tmp_path / "x.npz"))
    batch = examples.batch(torch.arange(2))["pixel_values"]
    plain = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    own = getattr(transformers, f"{plain}Pil", None) or getattr(transformers, plain)
    whole = own(do_resize=False, do_center_crop=False, **settings)
    expected = whole([Image.fromarray(image) for image in pixels], return_tensors="pt")
    torch.testing.assert_close(
        batch, expected["pixel_values"].float(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5,
    reason="older transformers do not read processor_config.json for images",
)
def test_a_preprocessor_is_found_and_saved_wherever_it_stands(root, tmp_path):
    model = save_model(tmp_path / "vit", "vit")
    file = model / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    inner = {"image_processor": settings, "processor_class": "SiglipProcessor"}
    (model / "processor_config.json").write_text(json.dumps(inner))
    file.unlink()
    task = image_task(model, root / "i.npz")
    save_preprocessor(task.config, tmp_path / "merged")
    saved = json.loads((tmp_path / "merged/preprocessor_config.json").read_text())
    assert saved == settings
    batch = task.data.test.batch(torch.arange(5))["pixel_values"]
    plain = image_task(root / "vit", root / "i.npz").data.test.batch(torch.arange(5))
    assert torch.equal(batch, plain["pixel_values"])


def test_a_preprocessor_that_cannot_be_read_is_named(root, tmp_path):
    model = save_model(tmp_path / "vit", "vit")
    (model / "preprocessor_config.json").write_text("{")
    with pytest.raises(
        ValueError, match="must have a preprocessor_config.json in JSON"
    ):
        image_task(model, root / "i.npz")


def test_a_model_in_the_hubs_cache_is_checked_as_well(root, tmp_path, monkeypatch):
    for name in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{name}.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--org--tiny"
    snapshot = shutil.copytree(root / "bert", cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(snapshot.name)
    task = build(root, "org/tiny")
    assert task.evaluate(task.data.test).loss > 0
    for file in snapshot.glob("*token*"):
        file.unlink()
    refused(root, "org/tiny", "model must come with its tokenizer")
