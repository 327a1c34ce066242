"""The loss of a language model by pieces is the model's own loss."""

import numpy as np
import pytest
import torch

from flasc_flwr.app.training import token_loss
from flasc_flwr.app.training.local import loss_of
from flasc_flwr.app.training.lora import read_adapter
from tests.app.architectures import save_architecture
from tests.app.files import text_task
from tests.app.tiny import CONFIGS, save_model, texts, write_jsonl

pytestmark = pytest.mark.usefixtures("own_cache")

OTHERS = {
    "granite": {"logits_scaling": 8.0},
    "gemma2": {"final_logit_softcapping": 1000.0},
    "mixtral": {"output_router_logits": True},
}
"""Change their logits, or add to their loss."""
KINDS = ["gpt2", "llama", "opt", "gemma3", *OTHERS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("token-loss")
    write_jsonl(folder / "t-train.jsonl", texts(8))
    write_jsonl(folder / "t-test.jsonl", texts(6, seed=1))
    return folder


@pytest.fixture
def own_cache(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")


def build(folder, kind, **settings):
    if not (folder / kind).exists():
        if kind in CONFIGS:
            save_model(folder / kind, kind)
        else:
            save_architecture(folder / kind, kind, **OTHERS.get(kind, {}))
    whole = {
        "task": "causal-lm",
        "client_optimizer": "sgd",
        "client_learning_rate": 0.1,
        "batch_size": 3,
        "gradient_accumulation": 2,
        "max_steps": 2,
    } | settings
    return text_task(folder / kind, folder / "t-*.jsonl", **whole)


def outcomes(task):
    """Train, and return what it came to, the adapter, and an evaluation."""
    examples = task.data.partition(0, 1)
    # B starts at zero: with another start, A has gradients, too.
    rng = np.random.default_rng(0)
    start = {
        name: rng.normal(size=array.shape, scale=0.1).astype(np.float32)
        for name, array in read_adapter(task.model).items()
    }
    task.load_adapter(start)
    trained = task.train(examples, seed=1)
    return trained, read_adapter(task.model), task.evaluate(task.data.test)


@pytest.mark.parametrize("kind", KINDS)
def test_training_by_pieces_is_plain_training(folder, monkeypatch, kind):
    task = build(folder, kind)
    assert (task.model in token_loss._PARTS) == (kind not in OTHERS)
    sizes = []
    piece = token_loss._piece

    def counting(head, hidden, targets):
        sizes.append(len(targets))
        return piece(head, hidden, targets)

    monkeypatch.setattr(token_loss, "_piece", counting)
    # Three tokens at once.
    vocabulary = task.model.config.get_text_config().vocab_size
    monkeypatch.setattr(token_loss, "_LOGITS", {"cpu": 3 * vocabulary})
    ours, adapter, evaluated = outcomes(task)
    assert (max(sizes, default=0), min(sizes, default=0) > 0) == (
        (0, False) if kind in OTHERS else (3, True)
    )
    token_loss._PARTS.pop(task.model, None)
    plain, expected, measured = outcomes(task)
    for one, other in ((ours, plain), (evaluated, measured)):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert (one.accuracy, one.predictions) == (other.accuracy, other.predictions)
    moved = 0.0
    for name, array in expected.items():
        np.testing.assert_allclose(adapter[name], array, rtol=1e-3, atol=1e-6)
        moved = max(moved, np.abs(array).max())
    assert moved > 0


def test_the_output_layer_itself_can_be_trained_and_layers_computed_again(folder):
    task = build(folder, "llama", saved_modules="lm_head", gradient_checkpointing=True)
    assert task.model in token_loss._PARTS
    before = read_adapter(task.model)
    outcome = task.train(task.data.partition(0, 1), seed=1)
    after = read_adapter(task.model)
    (head,) = (name for name in after if "lm_head" in name)
    assert np.isfinite(outcome.loss)
    assert np.abs(after[head] - before[head]).max() > 0
    token_loss._PARTS.pop(task.model)
    task.load_adapter(before)
    task.train(task.data.partition(0, 1), seed=1)
    plain = read_adapter(task.model)
    np.testing.assert_allclose(after[head], plain[head], rtol=1e-3, atol=1e-6)


def test_a_batch_without_anything_to_predict_has_no_loss(folder):
    task = build(folder, "llama")
    tokens = torch.tensor([[5, 6, 7]])
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    labels = torch.full_like(tokens, token_loss.IGNORED)
    loss, count = token_loss.token_loss(task.model, {**batch, "labels": labels})
    own = task.model(**batch, labels=labels).loss
    assert torch.isnan(loss) == torch.isnan(own)
    assert int(count.losses) == 0


def test_the_loss_of_a_router_is_trained_with_and_not_evaluated(folder):
    """The perplexity would be that of no tokens."""
    task = build(folder, "mixtral")
    measured = task.measure(task.data.test)
    loss = count = 0.0
    for row in range(len(task.data.test)):
        batch = task.data.test.batch(torch.tensor([row]))
        with torch.no_grad():
            output = task.model(**batch)
        targets = batch["labels"][0, 1:]
        loss += float(
            torch.nn.functional.cross_entropy(
                output.logits[0, :-1], targets, reduction="sum"
            )
        )
        count += len(targets)
    assert measured["loss"] == pytest.approx(loss / count, rel=1e-5)
    assert measured["perplexity"] == pytest.approx(np.exp(loss / count), rel=1e-4)
    batch = task.data.test.batch(torch.arange(3))
    trained, _ = loss_of(task.model, batch, task.score)
    assert torch.equal(trained, task.model(**batch).loss)
