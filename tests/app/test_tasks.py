"""Tasks on tiny models of many architectures, built from configs."""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig
from sklearn.metrics import f1_score
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from flasc_flwr.training.device import autocast
from flasc_flwr.training.heads import MeanPooledClassifier
from flasc_flwr.training.lora import adapter_tensors, read_adapter
from tests.app.tiny import CONFIGS, images, save_model, task_of, texts, write_jsonl

# Width, layers: what CONFIGS says.
WIDTH, LAYERS, RANK, CLASSES = 16, 2, 2, 2
SQUARE = RANK * (WIDTH + WIDTH)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    for kind in CONFIGS:
        save_model(root / kind, kind)
    write_jsonl(root / "t-train.jsonl", texts(40))
    write_jsonl(root / "t-test.jsonl", texts(30, seed=1))
    (x, y), (x_test, y_test) = images(40), images(20, seed=1)
    np.savez(root / "i.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return root


@pytest.fixture(autouse=True)
def cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")


def text_task(root, kind, **settings):
    settings = {"task": "text-classification", "partitioner": "iid"} | settings
    data = str(root / "t-*.jsonl")
    return task_of(model=str(root / kind), dataset=data, **settings)


def language_task(root, kind="gpt2", **settings):
    return text_task(root, kind, task="causal-lm", **settings)


def image_task(root, **settings):
    settings = {"task": "image-classification", "dataset": str(root / "i.npz")} | (
        settings
    )
    return task_of(model=str(root / "vit"), **settings)


def trainable(task):
    return sum(p.numel() for p in task.model.parameters() if p.requires_grad)


def short_targets(task):
    return {name.rpartition(".")[2] for name in task.model.targeted_module_names}


CLASSIFIERS = {
    # kind: targets, head, entries of the head, entries of the factors
    "bert": (
        {"query", "value"},
        ["classifier"],
        CLASSES * (WIDTH + 1),
        LAYERS * 2 * SQUARE,
    ),
    "roberta": (
        {"query", "value"},
        ["classifier"],
        WIDTH * (WIDTH + 1) + CLASSES * (WIDTH + 1),
        LAYERS * 2 * SQUARE,
    ),
    "distilbert": (
        {"q_lin", "k_lin", "v_lin"},
        ["pre_classifier", "classifier"],
        WIDTH * (WIDTH + 1) + CLASSES * (WIDTH + 1),
        LAYERS * 3 * SQUARE,
    ),
    # Its layers share one set of weights, and so one adapter.
    "albert": (
        {"query", "key", "value"},
        ["classifier"],
        CLASSES * (WIDTH + 1),
        1 * 3 * SQUARE,
    ),
    # c_attn W -> 3 W; c_proj W -> W and 4 W -> W; c_fc W -> 4 W.
    "gpt2": (
        {"c_attn", "c_proj", "c_fc"},
        ["score"],
        CLASSES * WIDTH,
        LAYERS * RANK * WIDTH * (4 + 2 + 5 + 5),
    ),
    "llama": (
        {"q_proj", "v_proj"},
        ["score"],
        CLASSES * WIDTH,
        LAYERS * 2 * SQUARE,
    ),
}


@pytest.mark.parametrize("kind", list(CLASSIFIERS))
def test_targets_and_head_of_each_architecture(root, kind):
    names, head, in_head, in_factors = CLASSIFIERS[kind]
    task = text_task(root, kind)
    # transformers renames modules: what counts is that these or their heirs are there.
    assert len(short_targets(task)) == len(names)
    assert short_targets(task) == names or kind not in ("gpt2", "llama")
    assert task.model.peft_config["default"].modules_to_save == head
    assert trainable(task) == in_head + in_factors
    assert sum(a.size for a in read_adapter(task.model).values()) == trainable(task)


def test_targets_and_head_of_a_vision_transformer(root):
    task = image_task(root)
    assert trainable(task) == CLASSES * (WIDTH + 1) + LAYERS * 2 * SQUARE
    # Query and value, and not key: of the same shape, so the names tell.
    assert short_targets(task) in ({"q_proj", "v_proj"}, {"query", "value"})


def test_a_language_model_keeps_its_tied_embeddings_frozen(root):
    task = language_task(root)
    assert trainable(task) == CLASSIFIERS["gpt2"][3]
    assert task.model.peft_config["default"].modules_to_save in (None, [])
    model = task.model.base_model.model
    before = model.lm_head.weight.detach().clone()
    assert model.lm_head.weight is model.transformer.wte.weight
    task.train(task.data.partition(0, 4), seed=0)
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("kind", [*CLASSIFIERS, "vit", "language"])
def test_training_changes_the_adapter_and_nothing_else(root, kind):
    # Through small new heads SGD's steps would be lost in rounding.
    settings = {"client_optimizer": "adamw"}
    build = {"vit": image_task, "language": language_task}
    if kind in build:
        task = build[kind](root, **settings)
    else:
        task = text_task(root, kind, **settings)
    federated = {t.data_ptr() for t in adapter_tensors(task.model).values()}
    before = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    task.train(task.data.partition(0, 4), seed=0)
    # B is zero at first, which leaves A without a gradient: a second epoch moves it.
    task.train(task.data.partition(0, 4), seed=1)
    for name, parameter in task.model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == (parameter.data_ptr() in federated), name


def independent_inputs(root, task, rows):
    """Tokenise by hand: words of a known vocabulary, one text at a time."""
    from tests.app.tiny import VOCABULARY

    for row in rows:
        words = [VOCABULARY[word] for word in row["text"].split()]
        decoder = task.model.config.model_type in ("gpt2", "llama")
        ids = words if decoder else [2, *words[:14], 3]
        yield torch.tensor([ids[:16]]), row["label"]


@pytest.mark.parametrize("kind", list(CLASSIFIERS))
def test_accuracy_and_loss_are_those_of_one_text_at_a_time(root, kind):
    """Padding changes nothing, wherever a model looks for the end of a text."""
    task = text_task(root, kind)
    task.train(task.data.partition(0, 4), seed=0)
    outcome = task.evaluate(task.data.test)
    losses, right = [], 0
    with torch.no_grad():
        for ids, label in independent_inputs(root, task, texts(30, seed=1)):
            logits = task.model(input_ids=ids, attention_mask=torch.ones_like(ids))
            probabilities = logits.logits[0].softmax(-1)
            losses.append(-float(probabilities[label].log()))
            right += int(probabilities.argmax()) == label
    assert outcome.examples == 30
    assert outcome.accuracy == right / 30
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_models_loss_is_per_token_however_texts_are_batched(root, kind):
    task = language_task(root, kind)
    task.train(task.data.partition(0, 4), seed=0)
    outcome = task.evaluate(task.data.test)
    losses, right, plain = [], 0, AutoModelForCausalLM.from_pretrained(root / kind)
    assert next(plain.parameters()).dtype == torch.float32
    with torch.no_grad():
        for ids, _ in independent_inputs(root, task, texts(30, seed=1)):
            logits = task.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            following = ids[0, 1:]
            losses += (-logits[range(len(following)), following]).tolist()
            right += int((logits.argmax(-1) == following).sum())
    assert outcome.accuracy == pytest.approx(right / len(losses))
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_padding_that_is_the_end_token_does_not_hide_real_end_tokens(root, tmp_path):
    rows = [{"text": "cat dog"}, {"text": "cat [END] sun"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    task = language_task(root)
    batch = task.data.own(str(tmp_path / "x.jsonl")).batch(torch.arange(2))
    end = 4
    assert batch["input_ids"].tolist() == [[6, 7, end], [6, end, 17]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[6, 7, -100], [6, end, 17]]


def test_texts_too_short_to_learn_from_are_left_out_of_language_modelling(
    root, tmp_path
):
    rows = [{"text": t} for t in ("cat", "", None, "cat dog")]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert len(language_task(root).data.own(str(tmp_path / "x.jsonl"))) == 1
    write_jsonl(tmp_path / "y.jsonl", rows[:2])
    with pytest.raises(ValueError, match="data-path .*no rows that can be used"):
        language_task(root).data.own(str(tmp_path / "y.jsonl"))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("head", ["stock", "mean"])
def test_empty_texts_have_a_class_too(root, tmp_path, kind, head):
    write_jsonl(tmp_path / "x.jsonl", [{"text": "", "label": 0}] * 2)
    task = text_task(root, kind, head=head)
    outcome = task.evaluate(task.data.own(str(tmp_path / "x.jsonl")))
    assert np.isfinite(outcome.loss) and outcome.examples == 2


def test_the_mean_head_is_plain_arithmetic(root):
    task = text_task(root, "bert", head="mean")
    encoder = AutoModel.from_pretrained(root / "bert").eval()
    batch = task.data.test.batch(torch.arange(8))
    layer = task.model.base_model.model.classifier.modules_to_save["default"]
    task.model.eval()
    with torch.no_grad():
        given = task.model(**batch)
        for row in range(8):
            length = int(batch["attention_mask"][row].sum())
            ids = batch["input_ids"][row : row + 1, :length]
            mean = encoder(input_ids=ids).last_hidden_state[0].mean(0)
            unit = mean / mean.norm() * WIDTH**0.5
            expected = layer.weight @ unit + layer.bias
            torch.testing.assert_close(given.logits[row], expected, rtol=1e-4, atol=0)
    loss = torch.nn.functional.cross_entropy(given.logits, batch["labels"])
    assert float(given.loss) == pytest.approx(float(loss))


def test_the_mean_head_leaves_the_encoder_as_it_was(root):
    encoder = AutoModel.from_pretrained(root / "bert")
    encoder.config.num_labels = 2
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    wrapped = MeanPooledClassifier(encoder.config, encoder)
    for name, tensor in wrapped.encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def multi_label_data(root, folder):
    """Images with zero to two of three classes, from files named in JSON lines."""
    from PIL import Image

    labels = [[0], [1, 2], [], [2], [0, 1], [1]] * 3
    for part in ("train", "test"):
        rows = []
        for number, pixels in enumerate(images(18, seed=3)[0]):
            path = folder / f"{part}-{number}.png"
            Image.fromarray(pixels).save(path)
            rows.append({"image": str(path), "label": labels[number], "user": "ab"})
        write_jsonl(folder / f"m-{part}.jsonl", rows)
    return labels


def test_several_classes_an_image_score_as_micro_f1(root, tmp_path):
    labels = multi_label_data(root, tmp_path)
    task = image_task(
        root,
        dataset=str(tmp_path / "m-*.jsonl"),
        multi_label=True,
        partitioner="iid",
        client_optimizer="adamw",
        local_epochs=3,
    )
    examples = task.data.partition(0, 2)
    task.train(examples, seed=0)
    # Small batches: what is counted has to add up over them.
    from flasc_flwr.training.local import evaluate

    outcome = evaluate(task.model, task.data.test, task.config, task.score, 5)
    true = np.zeros((18, 3))
    for row, several in enumerate(labels):
        true[row, several] = 1
    with torch.no_grad():
        batch = task.data.test.batch(torch.arange(18))
        assert batch["labels"].tolist() == true.tolist()
        logits = task.model(pixel_values=batch["pixel_values"]).logits
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor(true, dtype=torch.float32)
    )
    f1 = f1_score(true, logits.numpy() > 0, average="micro")
    assert 0 < f1 < 1
    assert outcome.accuracy == pytest.approx(f1)
    assert outcome.loss == pytest.approx(float(expected), rel=1e-5)


def test_images_are_scaled_and_normalised_as_the_model_was_trained(root, tmp_path):
    task = image_task(root)
    batch = task.data.test.batch(torch.arange(5))
    pixels, labels = images(20, seed=1)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    expected = ((pixels[:5] / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["pixel_values"], expected, atol=1e-5)
    assert batch["labels"].tolist() == labels[:5].tolist()
    large, labels = images(4, size=40)
    np.savez(tmp_path / "large.npz", x_train=large, y_train=labels)
    batch = task.data.own(str(tmp_path / "large.npz")).batch(torch.arange(4))
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    channels = large.mean((1, 2)) / 255
    np.testing.assert_allclose(
        batch["pixel_values"].mean((2, 3)).numpy() * std + mean, channels, atol=0.02
    )


def test_only_training_images_are_augmented(root):
    plain, augmented = (image_task(root, augment=a) for a in (False, True))
    chosen = torch.arange(6)
    for training in (False, True):
        torch.manual_seed(0)
        one = plain.data.test.batch(chosen, training=training)
        other = augmented.data.test.batch(chosen, training=training)
        same = torch.equal(one["pixel_values"], other["pixel_values"])
        assert same == (not training)
        assert other["pixel_values"].shape == one["pixel_values"].shape


def test_an_image_model_without_a_size_is_refused(root, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="images of size None with 3 channels"):
        task_of(
            task="image-classification",
            model=str(tmp_path),
            dataset=str(root / "i.npz"),
        )


@pytest.mark.parametrize("build", [text_task, language_task, image_task])
def test_seeds_repeat(root, build):
    kind = [] if build is image_task else ["gpt2"]
    results = []
    for seed in (0, 0, 1):
        settings = {"augment": True} if build is image_task else {}
        task = build(root, *kind, seed=seed, lora_dropout=0.2, **settings)
        start = read_adapter(task.model)
        outcome = task.train(task.data.partition(0, 4), seed=seed)
        results.append((start, read_adapter(task.model), outcome))
    (a, b, c) = results
    for state in (0, 1):
        for name in a[state]:
            np.testing.assert_array_equal(a[state][name], b[state][name])
    assert a[2] == b[2]
    assert any(not np.array_equal(a[0][n], c[0][n]) for n in a[0])


def test_dropout_acts_in_the_adapter_and_only_while_training(root):
    outcomes = []
    for dropout in (0.0, 0.0, 0.5):
        task = text_task(root, "bert", lora_dropout=dropout, client_learning_rate=0.3)
        task.train(task.data.partition(0, 2), seed=5)
        outcomes.append(task.train(task.data.partition(0, 2), seed=6).loss)
        first, second = (task.evaluate(task.data.test) for _ in range(2))
        assert first == second
    # The backbone's own dropout is off: BERT's is 0.1 by default.
    assert outcomes[0] == outcomes[1] != outcomes[2]
    on = [n for n, m in task.model.named_modules() if m.training]
    assert not on
    assert task.model.config.hidden_dropout_prob == 0.1


def test_precision_changes_the_forward_pass_and_not_the_parameters(root):
    tasks = [text_task(root, "bert", precision=p) for p in ("float32", "bfloat16")]
    losses = []
    for task in tasks:
        with autocast(task.config, task.model):
            batch = task.data.test.batch(torch.arange(4))
            logits = task.model(**batch).logits
        kind = torch.float32 if task.config.precision == "float32" else torch.bfloat16
        assert logits.dtype == kind
        losses.append(task.train(task.data.partition(0, 4), seed=0).loss)
        assert {p.dtype for p in task.model.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.parametrize("head", ["stock", "mean"])
def test_a_backbone_saved_in_bfloat16_is_trained_in_float32(root, tmp_path, head):
    from tests.app.tiny import save_tokenizer

    model = AutoModelForSequenceClassification.from_pretrained(root / "bert")
    model.bfloat16().save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    task = task_of(
        task="text-classification",
        model=str(tmp_path),
        dataset=str(root / "t-*.jsonl"),
        head=head,
    )
    assert {p.dtype for p in task.model.parameters()} == {torch.float32}


def test_torch_compile_is_off_unless_asked_for(root):
    assert text_task(root, "bert").model._compiled_call_impl is None
    assert text_task(root, "bert", compile=True).model._compiled_call_impl is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_what_needs_a_gpu_says_so(root):
    with pytest.raises(ValueError, match="quantize is '4bit', which needs a GPU: allo"):
        text_task(root, "bert", quantize="4bit")
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no GPU"):
        text_task(root, "bert", device="cuda")


def test_quantizing_without_its_package_says_so(root, monkeypatch):
    monkeypatch.setattr(
        "flasc_flwr.tasks.backbones.device_of", lambda config: torch.device("cuda")
    )
    monkeypatch.setattr("flasc_flwr.tasks.backbones.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quantize is '8bit', .*package bitsandbytes"):
        text_task(root, "bert", quantize="8bit")


def test_targets_by_name(root):
    task = text_task(root, "gpt2", lora_targets="c_attn, c_fc")
    assert short_targets(task) == {"c_attn", "c_fc"}
    expected = r"lora-targets is 'c_atn', .*allowed are c_attn, c_fc, c_proj, score"
    with pytest.raises(ValueError, match=expected):
        text_task(root, "gpt2", lora_targets="c_atn")


def test_saved_modules_by_name(root):
    task = text_task(root, "distilbert", saved_modules="pre_classifier")
    assert trainable(task) == CLASSIFIERS["distilbert"][3] + WIDTH * (WIDTH + 1)
    # PEFT takes every module whose name ends so, and what is said is what is done.
    both = text_task(root, "distilbert", saved_modules="classifier")
    assert trainable(both) == sum(CLASSIFIERS["distilbert"][2:])
    heads = both.model.peft_config["default"].modules_to_save
    assert heads == ["pre_classifier", "classifier"]
    none = text_task(root, "distilbert", saved_modules="")
    assert trainable(none) == CLASSIFIERS["distilbert"][3]
    with pytest.raises(ValueError, match="no module 'head': allowed are distilbert, "):
        text_task(root, "distilbert", saved_modules="head")


@pytest.mark.parametrize(("method", "whole"), [("linear", False), ("full", True)])
def test_methods_without_lora_train_the_head_or_everything(root, method, whole):
    task = text_task(root, "distilbert", method=method)
    everything = sum(p.numel() for p in task.model.parameters())
    assert trainable(task) == (everything if whole else CLASSIFIERS["distilbert"][2])


def test_texts_longer_than_the_model_are_refused_before_training(root):
    with pytest.raises(ValueError, match="max-length is 33, .* at most 32 tokens"):
        text_task(root, "bert", max_length=33)


def test_a_tokenizer_that_cannot_pad_is_refused(root, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "gpt2")
    tokenizer.eos_token = None
    save_model(tmp_path, "gpt2")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither a padding nor an end token"):
        task_of(task="causal-lm", model=str(tmp_path), dataset=str(root / "t-*.jsonl"))


def test_the_adapter_config_says_what_was_set(root):
    task = text_task(root, "bert", lora_rank=3, lora_alpha=7.0, lora_dropout=0.1)
    lora: LoraConfig = task.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 7.0, 0.1)
    assert task.scale == 7 / 3


def test_rows_reach_the_model_in_their_order(root):
    rows = load_dataset("json", data_files=str(root / "t-test.jsonl"), split="train")
    batch = text_task(root, "bert").data.test.batch(torch.arange(30))
    assert batch["labels"].tolist() == rows["label"][:]
