import numpy as np
import pytest
import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.training.local import train_model
from flasc_flwr.app.training.lora import adapter_tensors, read_adapter, write_tensors
from flasc_flwr.core.layout import Layout, Role

CONFIG = RunConfig(lora_rank=4, local_epochs=1)


@pytest.fixture
def task():
    task = load_task(CONFIG)
    before = read_adapter(task.model)
    yield task
    write_tensors(task.model, before)


def everything(examples):
    return examples.batch(torch.arange(len(examples)))


def rows(examples):
    return {tuple(p.flatten().tolist()) for p in examples["pixel_values"]}


def test_the_parts_are_disjoint_and_complete():
    public, private, test = parts()
    assert len(public["labels"]) + len(private["labels"]) + len(test["labels"]) == 1797
    upright = torch.rot90(public["pixel_values"], -1, (2, 3))
    assert not rows(private) & rows(test)
    assert not rows({"pixel_values": upright}) & (rows(private) | rows(test))


def test_partitions_split_the_private_part_without_loss(task):
    _, private, _ = parts()
    clients = [everything(task.data.partition(i, 20)) for i in range(20)]
    assert sum(len(c["labels"]) for c in clients) == len(private["labels"])
    assert set().union(*(rows(c) for c in clients)) == rows(private)
    assert all(len(c["labels"]) > 0 for c in clients)


def test_the_adapter_is_factors_and_head_and_starts_at_b_zero(task):
    arrays = read_adapter(task.model)
    layout = Layout.of(arrays)
    roles = [tensor.role for tensor in layout.tensors]
    assert roles.count(Role.A) == roles.count(Role.B) == 2 * 4
    assert roles.count(Role.HEAD) == 2
    for tensor, place in layout.slices():
        if tensor.role == Role.B:
            assert not layout.flatten(arrays)[place].any()


def test_the_adapter_depends_only_on_the_seed():
    one, same, other = (
        read_adapter(load_task(RunConfig(lora_rank=4, seed=seed)).model)
        for seed in (1, 1, 2)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert any((one[name] != other[name]).any() for name in one)


def test_what_is_written_is_read_and_changes_the_model(task):
    arrays = read_adapter(task.model)
    before = task.evaluate(task.data.test)
    rng = np.random.default_rng(0)
    moved = {
        name: (value + 0.1 * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in arrays.items()
    }
    write_tensors(task.model, moved)
    for name, value in read_adapter(task.model).items():
        np.testing.assert_array_equal(value, moved[name])
    assert task.evaluate(task.data.test).loss != before.loss


def test_only_the_adapter_is_trained(task):
    adapter = {t.data_ptr() for t in adapter_tensors(task.model).values()}
    backbone = {
        name: p.detach().clone()
        for name, p in task.model.named_parameters()
        if p.data_ptr() not in adapter
    }
    before = read_adapter(task.model)
    task.train(task.data.partition(0, 20), seed=1)
    for name, parameter in task.model.named_parameters():
        if name in backbone:
            assert torch.equal(parameter, backbone[name]), name
    after = read_adapter(task.model)
    changed = [name for name in before if (before[name] != after[name]).any()]
    # While B is zero, A has no gradient: it changes after the first step.
    assert set(changed) == set(before)


def test_training_repeats_bit_for_bit(task):
    start = read_adapter(task.model)
    results = []
    for seed in (7, 7, 8):
        write_tensors(task.model, start)
        task.train(task.data.partition(3, 20), seed=seed)
        results.append(Layout.of(start).flatten(read_adapter(task.model)))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_training_counts_and_improves(task):
    examples = task.data.partition(0, 4)
    config = RunConfig(lora_rank=4, local_epochs=5, batch_size=16)
    before = task.evaluate(examples)
    outcome = train_model(task.model, examples, config, seed=0)
    count = len(examples)
    assert outcome.examples == count
    assert outcome.steps == 5 * -(-count // 16)
    assert task.evaluate(examples).loss < before.loss


def test_a_client_without_examples_is_an_error(task):
    nothing = task.data.test.select([])
    with pytest.raises(ValueError, match="no training examples"):
        task.train(nothing, seed=0)


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_is_written(task):
    arrays = read_adapter(task.model)
    name = next(iter(arrays))
    short = {n: v + 1 for n, v in arrays.items() if n != name}
    with pytest.raises(ValueError, match="names of the adapter, differ in"):
        write_tensors(task.model, short)
    with pytest.raises(ValueError, match="must have shape"):
        write_tensors(task.model, {**arrays, name: np.zeros((1, 1), np.float32)})
    for n, value in read_adapter(task.model).items():
        np.testing.assert_array_equal(value, arrays[n])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_entries_stay_as_they_are_while_the_others_train(task, optimizer):
    config = RunConfig(lora_rank=4, client_optimizer=optimizer, lora_dropout=0.1)
    start = read_adapter(task.model)
    rng = np.random.default_rng(0)
    trainable = {name: rng.random(v.shape) < 0.5 for name, v in start.items()}
    train_model(
        task.model, task.data.partition(0, 20), config, seed=1, trainable=trainable
    )
    after = read_adapter(task.model)
    for name, mask in trainable.items():
        np.testing.assert_array_equal(after[name][~mask], start[name][~mask])
        assert (after[name][mask] != start[name][mask]).mean() > 0.9, name


def test_modules_that_a_run_names_are_those_that_are_trained():
    def named(**settings):
        load_task.cache_clear()
        names = adapter_tensors(load_task(RunConfig(lora_rank=4, **settings)).model)
        return {name.split(".attention.")[-1] for name in names}

    last = sorted(named())[-1].partition(".")[0]
    assert named(lora_targets=last, saved_modules="") == {
        f"{last}.lora_A.weight",
        f"{last}.lora_B.weight",
    }
    with pytest.raises(ValueError, match="lora-targets must name .*got 'w'"):
        named(lora_targets="w")
    with pytest.raises(ValueError, match="saved-modules must name .*got 'w'"):
        named(saved_modules="w")
