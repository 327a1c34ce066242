"""How long and how a client trains in one round."""

from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch

import client_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.app.tasks.task import Task, load_task
from flasc_flwr.app.training.client_optimizer import ClientOptimizer
from flasc_flwr.app.training.lora import adapter_tensors, read_adapter
from flasc_flwr.app.training.schedule import client_learning_rate
from tests.app.built import image_task, language_task, text_task

pytestmark = pytest.mark.usefixtures("built_cache")


def trained(root, **settings):
    """Return a client's outcome and its adapter after one round."""
    task = language_task(root, batch_size=3, **settings)
    examples = task.data.partition(0, 4)
    assert len(examples) == 9
    return task.train(examples, seed=0), read_adapter(task.model)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("epochs", "most", "steps"),
    [(2, 0, 6), (2, 1, 1), (2, 4, 4), (2, 6, 6), (2, 100, 6), (1, 4, 3)],
)
def test_a_round_ends_after_its_epochs_or_its_steps(root, epochs, most, steps):
    outcome, _ = trained(root, local_epochs=epochs, max_steps=most)
    assert outcome.steps == steps
    assert outcome.examples == 9


def test_the_steps_are_the_first_ones_of_the_epochs(root):
    _, one_epoch = trained(root, local_epochs=1)
    _, three_steps = trained(root, local_epochs=5, max_steps=3)
    _, four_steps = trained(root, local_epochs=5, max_steps=4)
    assert same(one_epoch, three_steps)
    assert not same(three_steps, four_steps)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"max-steps must be an integer >= 0, got -1"):
        RunConfig.parse({"max-steps": -1})


@pytest.mark.parametrize(
    "build", [language_task, lambda r, **s: text_task(r, "bert", **s)]
)
def test_accumulated_batches_make_the_step_of_one_large_batch(root, build):
    def one_epoch(**settings):
        task = build(root, local_epochs=1, **settings)
        outcome = task.train(task.data.partition(0, 4), seed=0)
        return outcome, read_adapter(task.model)

    whole, expected = one_epoch(batch_size=9)
    # Texts have 2 to 10 tokens: batches count by their tokens.
    parts, arrays = one_epoch(batch_size=4, gradient_accumulation=3)
    assert (whole.steps, parts.steps) == (1, 1)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6)
    two, _ = one_epoch(batch_size=3, gradient_accumulation=2)
    assert two.steps == 2


KINDS = ["bert", "distilbert", "gpt2", "llama", "vit"]


def kept_for_backward(task, batch):
    """Return the bytes that a forward pass keeps for the backward pass."""
    kept = []
    hooks = (lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        task.model(**batch)
    return sum(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_computed_again_give_the_same_adapter_from_less_memory(root, kind):
    def build(**settings):
        settings |= {"client_optimizer": "adamw", "lora_dropout": 0.1}
        if kind == "vit":
            return image_task(root, **settings)
        task = "causal-lm" if kind in ("gpt2", "llama") else "text-classification"
        return text_task(root, kind, task=task, **settings)

    tasks = [build(gradient_checkpointing=again) for again in (False, True)]
    kept, adapters = [], []
    for task in tasks:
        examples = task.data.partition(0, 4)
        kept.append(kept_for_backward(task, examples.batch(torch.arange(4))))
        task.train(examples, seed=0)
        adapters.append(read_adapter(task.model))
        assert task.evaluate(task.data.test).examples
    for name, array in adapters[0].items():
        np.testing.assert_allclose(array, adapters[1][name], rtol=1e-4, atol=1e-6)
    # What is left is the inputs of layers, and the head.
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"method": "fed-sb"}, {"method": "ravan", "lora_rank": 4}],
    ids=str,
)
def test_dropout_acts_in_training_and_in_no_evaluation(root, settings):
    kept, dropped = (
        language_task(root, "llama", lora_dropout=dropout, **settings)
        for dropout in (0.0, 0.5)
    )
    for task in (kept, dropped):
        task.train(task.data.partition(0, 4), seed=0)
    assert not same(read_adapter(kept.model), read_adapter(dropped.model))
    kept.load_adapter(read_adapter(dropped.model))
    losses = [task.evaluate(task.data.test).loss for task in (kept, dropped)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("setting", ["precision", "backbone_precision"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_layers_are_computed_again_in_bfloat16_too(root, kind, setting):
    """Attention has another kernel there, in both passes."""
    task = "causal-lm" if kind == "llama" else "text-classification"
    settings = {"task": task, setting: "bfloat16", "batch_size": 1, "max_steps": 2}
    adapters = []
    for again in (False, True):
        task = text_task(root, kind, gradient_checkpointing=again, **settings)
        task.train(task.data.partition(0, 4), seed=0)
        adapters.append(read_adapter(task.model))
    for name, array in adapters[0].items():
        np.testing.assert_allclose(array, adapters[1][name], rtol=0.02, atol=1e-3)


def test_a_model_generates_with_its_cache_after_training_without(root):
    task = text_task(root, "llama", task="causal-lm", gradient_checkpointing=True)
    tokens = torch.tensor([[5, 6, 7]])
    plain = text_task(root, "llama", task="causal-lm")
    expected = plain.model.generate(input_ids=tokens, max_new_tokens=5)
    assert torch.equal(
        task.model.generate(input_ids=tokens, max_new_tokens=5), expected
    )
    assert task.model.config.use_cache
    task.train(task.data.partition(0, 4), seed=0)
    assert task.model.config.use_cache


def test_layers_that_cannot_be_computed_again_are_refused(root, monkeypatch):
    monkeypatch.setattr(
        "flasc_flwr.app.training.recomputing.GradientCheckpointingLayer", None
    )
    with pytest.raises(
        ValueError, match="gradient-checkpointing must be false .*'bert'"
    ):
        text_task(root, "bert", gradient_checkpointing=True)


def config_of(**settings):
    return RunConfig.parse({k.replace("_", "-"): v for k, v in settings.items()})


def rates(rounds, **settings):
    config = config_of(client_learning_rate=5e-5, num_server_rounds=rounds, **settings)
    return [client_learning_rate(config, r) for r in range(1, rounds + 1)]


def test_the_cosine_is_that_of_flowertune():
    found = rates(100, client_learning_rate_schedule="cosine")
    low, high = 1e-6, 5e-5  # the rates of Flower's example
    expected = [
        low + 0.5 * (high - low) * (1 + cos(pi * r / 100)) for r in range(1, 101)
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[-1] == pytest.approx(low)


def test_linear_constant_and_warm_up():
    assert rates(3) == [5e-5] * 3
    linear = {"client_learning_rate_schedule": "linear"}
    found = rates(4, client_learning_rate_floor=0.2, **linear)
    assert np.divide(found, 5e-5) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    found = rates(5, client_warmup_rounds=3, client_learning_rate_floor=0.2, **linear)
    assert np.divide(found, 5e-5) == pytest.approx([0.25, 0.5, 0.75, 0.6, 0.2])
    # A run that is shorter than its warm-up, and rounds beyond the last.
    assert rates(2, client_warmup_rounds=3, **linear)[-1] == pytest.approx(2.5e-5)
    config = config_of(num_server_rounds=2, client_learning_rate=1.0, **linear)
    assert client_learning_rate(config, 9) == pytest.approx(0.02)


def test_clients_train_at_the_rate_of_their_round(root, tmp_path, monkeypatch):
    found = []
    train = Task.train

    def recorded(self, examples, **more):
        found.append(more["current"])
        return train(self, examples, **more)

    monkeypatch.setattr(Task, "train", recorded)
    load_task.cache_clear()
    task = language_task(root, num_server_rounds=2, output_dir=str(tmp_path))
    load_task.cache_clear()
    run_locally(Path(client_app.__file__).parent, task.config.to_dict(), 2)
    assert sorted(found) == [1, 1, 2, 2]


def test_the_rate_scales_the_step(root):
    def moved(current):
        task = language_task(
            root,
            num_server_rounds=10,
            client_learning_rate_schedule="linear",
            max_steps=1,
        )
        before = read_adapter(task.model)
        task.train(task.data.partition(0, 4), seed=0, current=current)
        after = read_adapter(task.model)
        return np.concatenate([(after[n] - before[n]).ravel() for n in before])

    first, last = moved(1), moved(10)
    rate = 0.02 + 0.98 * 0.9
    np.testing.assert_allclose(last, first * (0.02 / rate), rtol=1e-2, atol=1e-8)


def test_gradients_are_clipped_after_frozen_entries_are_left_out(root):
    def step(most, trainable=None):
        task = language_task(
            root, max_steps=1, client_learning_rate=1.0, client_max_gradient_norm=most
        )
        before = read_adapter(task.model)
        if trainable is not None:
            trainable = {n: np.full(a.shape, trainable in n) for n, a in before.items()}
        task.train(task.data.partition(0, 4), seed=0, trainable=trainable)
        after = read_adapter(task.model)
        return np.sqrt(sum(np.square(after[n] - before[n]).sum() for n in before))

    free = step(0.0)
    assert step(1e-3) == pytest.approx(1e-3, rel=1e-3) != free
    assert step(1e9) == pytest.approx(free, rel=1e-6)
    assert step(1e-3, "c_fc") == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"weight_decay": 0.0, "momentum": 0.9}),
        ({"client_weight_decay": 0.2}, {"weight_decay": 0.2}),
        (
            {"client_optimizer": "adamw"},
            {"weight_decay": 0.01, "betas": (0.9, 0.999), "lr": 0.05},
        ),
        (
            {
                "client_optimizer": "adamw",
                "client_weight_decay": 0.0,
                "client_beta1": 0.8,
                "client_beta2": 0.95,
            },
            {"weight_decay": 0.0, "betas": (0.8, 0.95)},
        ),
    ],
)
def test_the_optimizers_settings(root, settings, expected):
    task = language_task(root, **settings)
    optimizer = ClientOptimizer(task.model, task.config, current=1)._optimizer
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in expected} == expected
    assert len(group["params"]) == len(adapter_tensors(task.model))
