"""Tasks on tiny models of many architectures, built from configs."""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModel

from flasc_flwr.app.training.device import autocast
from flasc_flwr.app.training.heads import MeanPooledClassifier
from flasc_flwr.app.training.lora import adapter_tensors, read_adapter
from tests.app.built import image_task, independent_inputs, language_task, text_task
from tests.app.tiny import save_model, task_of, texts, write_jsonl

pytestmark = pytest.mark.usefixtures("built_cache")

# Width and layers are those of CONFIGS.
WIDTH, LAYERS, RANK, CLASSES = 16, 2, 2, 2
SQUARE = RANK * (WIDTH + WIDTH)


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
    # Its layers share their weights, and so one adapter.
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
    # transformers renames modules: it is enough that these or their successors exist.
    assert len(short_targets(task)) == len(names)
    assert short_targets(task) == names or kind not in ("gpt2", "llama")
    assert task.model.peft_config["default"].modules_to_save == head
    assert trainable(task) == in_head + in_factors
    assert sum(a.size for a in read_adapter(task.model).values()) == trainable(task)


def test_targets_and_head_of_a_vision_transformer(root):
    task = image_task(root)
    assert trainable(task) == CLASSES * (WIDTH + 1) + LAYERS * 2 * SQUARE
    # Query and value, and not key, which has the same shape.
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
    # With small new heads, SGD's steps would be lost in rounding.
    settings = {"client_optimizer": "adamw"}
    build = {"vit": image_task, "language": language_task}
    if kind in build:
        task = build[kind](root, **settings)
    else:
        task = text_task(root, kind, **settings)
    federated = {t.data_ptr() for t in adapter_tensors(task.model).values()}
    before = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    task.train(task.data.partition(0, 4), seed=0)
    # While B is zero, A has no gradient: it changes in the second epoch.
    task.train(task.data.partition(0, 4), seed=1)
    for name, parameter in task.model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == (parameter.data_ptr() in federated), name


@pytest.mark.parametrize("kind", list(CLASSIFIERS))
def test_accuracy_and_loss_are_those_of_one_text_at_a_time(root, kind):
    """Padding has no effect, wherever a model looks for the end of a text."""
    task = text_task(root, kind)
    task.train(task.data.partition(0, 4), seed=0)
    outcome = task.evaluate(task.data.test)
    losses, right = [], 0
    with torch.no_grad():
        for ids, label in independent_inputs(task, texts(30, seed=1)):
            logits = task.model(input_ids=ids, attention_mask=torch.ones_like(ids))
            probabilities = logits.logits[0].softmax(-1)
            losses.append(-float(probabilities[label].log()))
            right += int(probabilities.argmax()) == label
    assert outcome.examples == 30
    assert outcome.accuracy == right / 30
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize("head", ["stock", "mean"])
def test_empty_texts_have_a_class_too(root, tmp_path, kind, head):
    write_jsonl(tmp_path / "x.jsonl", [{"text": "", "label": 0}] * 2)
    task = text_task(root, kind, head=head)
    outcome = task.evaluate(task.data.local_examples(str(tmp_path / "x.jsonl")))
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


def test_torch_compile_is_off_unless_asked_for(root):
    assert text_task(root, "bert").model._compiled_call_impl is None
    assert text_task(root, "bert", compile=True).model._compiled_call_impl is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(root):
    with pytest.raises(ValueError, match="device must .* got 'cuda'"):
        text_task(root, "bert", device="cuda")


def test_targets_by_name(root):
    task = text_task(root, "gpt2", lora_targets="c_attn, c_fc")
    assert short_targets(task) == {"c_attn", "c_fc"}
    expected = r"lora-targets .*\(c_attn, c_fc, c_proj, score\), got 'c_atn'"
    with pytest.raises(ValueError, match=expected):
        text_task(root, "gpt2", lora_targets="c_atn")


def test_saved_modules_by_name(root):
    task = text_task(root, "distilbert", saved_modules="pre_classifier")
    assert trainable(task) == CLASSIFIERS["distilbert"][3] + WIDTH * (WIDTH + 1)
    # PEFT selects every module whose name ends so.
    both = text_task(root, "distilbert", saved_modules="classifier")
    assert trainable(both) == sum(CLASSIFIERS["distilbert"][2:])
    heads = both.model.peft_config["default"].modules_to_save
    assert heads == ["pre_classifier", "classifier"]
    none = text_task(root, "distilbert", saved_modules="")
    assert trainable(none) == CLASSIFIERS["distilbert"][3]
    with pytest.raises(ValueError, match="saved-modules .* distilbert, .* got 'head'"):
        text_task(root, "distilbert", saved_modules="head")


@pytest.mark.parametrize(("method", "everything"), [("linear", False), ("full", True)])
def test_methods_without_lora_train_the_head_or_everything(root, method, everything):
    task = text_task(root, "distilbert", method=method)
    size = sum(p.numel() for p in task.model.parameters())
    assert trainable(task) == (size if everything else CLASSIFIERS["distilbert"][2])


def test_texts_longer_than_the_model_are_refused_before_training(root):
    with pytest.raises(ValueError, match="max-length must be at most 32 .* got 33"):
        text_task(root, "bert", max_length=33)


def test_a_tokenizer_that_cannot_pad_is_refused(root, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "gpt2")
    tokenizer.eos_token = None
    save_model(tmp_path, "gpt2")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model .* padding or an end token"):
        task_of(task="causal-lm", model=str(tmp_path), dataset=str(root / "t-*.jsonl"))


def test_the_adapter_config_has_the_settings(root):
    task = text_task(root, "bert", lora_rank=3, lora_alpha=7.0, lora_dropout=0.1)
    lora: LoraConfig = task.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 7.0, 0.1)
    assert task.scale == 7 / 3


def test_rows_reach_the_model_in_their_order(root):
    rows = load_dataset("json", data_files=str(root / "t-test.jsonl"), split="train")
    batch = text_task(root, "bert").data.test.batch(torch.arange(30))
    assert batch["labels"].tolist() == rows["label"][:]
