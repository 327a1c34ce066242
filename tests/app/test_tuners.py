"""PEFT's other tuners, from a PEFT config: whole runs and exports."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.runs.merged_model import merged_into
from flasc_flwr.app.runs.saved_adapter import trained_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.export import load_for_evaluation, save
from flasc_flwr.app.training.identity import identity_in
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.app.training.lora import adapter_roles, read_adapter, write_adapter
from flasc_flwr.app.training.tuners import build
from flasc_flwr.app.training.tuners.build import train_mode, tuner_of
from flasc_flwr.app.training.tuners.frozen import alike, sketch
from flasc_flwr.core.layout import Role
from flasc_flwr.flower.state.checkpoint import CheckpointError
from flasc_flwr.flower.state.checkpoint_files import read
from tests.app.built import language_task
from tests.app.test_apps import run
from tests.app.tuners import task_of, text_of

INSTALLED = {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
KINDS = sorted({"VERA", "UNILORA", "FOURIERFT", "IA3"} & INSTALLED)
QUICK = ("IA3", "UNILORA")
NOT_HERE = {"TRAINABLE_TOKENS"}
"""Tuners of embeddings, which this model has none of."""

REFUSED = {
    *("ADALORA", "POLY", "XLORA", "SHADOW", "PROMPT_TUNING", "P_TUNING", "CPT"),
    *("PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE"),
}


def simulate(folder, kind, **settings):
    config = {"peft_config": text_of(kind), "max_steps": 4, "lora_rank": 16}
    config |= {"client_optimizer": "adamw", "client_learning_rate": 0.01} | settings
    load_task.cache_clear()
    return run(folder, **{"num_server_rounds": 2} | config)


def logits(model):
    with torch.no_grad():
        return model.eval()(pixel_values=parts()[0]["pixel_values"][:8]).logits


def plain(folder):
    public = parts()[0]
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    return PeftModel.from_pretrained(backbone, str(folder)).eval()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.exhaustive] * (kind not in QUICK))
        for kind in KINDS
    ],
)
def test_a_run_travels_sparse_and_exports_what_peft_loads(tmp_path, kind):
    result = simulate(tmp_path, kind, checkpoint_every=1)
    rows, size = result.history, result.summary["adapter_parameters"]
    # A quarter of the entries, in 2 bytes and a position.
    assert 0 < rows[2]["payload_bytes_up"] / rows[2]["replies"] < 0.25 * size * 4 + 200
    outcome = evaluate_model(
        plain(result.folder / "adapter"), Examples.of(parts()[2]), RunConfig()
    )
    assert outcome.accuracy == pytest.approx(result.summary["accuracy"])
    assert outcome.loss == pytest.approx(result.summary["loss"], rel=1e-5)
    layout = read(result.folder / "checkpoints").state.layout
    assert {t.role for t in layout.tensors} == {Role.OTHER, Role.HEAD}
    assert all(
        (t.role is Role.HEAD) == (".classifier." in t.name) for t in layout.tensors
    )
    load_task.cache_clear()
    task = trained_task(result.folder, {})
    assert task.evaluate(task.data.test).loss == pytest.approx(outcome.loss, rel=1e-5)
    said = (result.folder / "adapter" / "README.md").read_text()
    assert f"An adapter of PEFT ({kind})" in said


def test_a_resumed_run_is_the_same(tmp_path):
    whole = simulate(tmp_path / "a", KINDS[-1], num_server_rounds=3)
    simulate(tmp_path / "b", KINDS[-1], checkpoint_every=1)
    resumed = simulate(
        tmp_path / "b",
        KINDS[-1],
        num_server_rounds=3,
        checkpoint_every=1,
        resume="latest",
    )
    for key in ("loss", "payload_bytes_up", "payload_bytes_down"):
        assert resumed.summary[key] == whole.summary[key], key


def test_a_run_resumes_where_sums_are_rounded_otherwise(tmp_path, monkeypatch):
    """As on another machine, or with another number of threads."""
    simulate(tmp_path, "IA3", num_server_rounds=1, checkpoint_every=1)

    def resume_with(factor, rounds):
        def rounded(tensors):
            return [factor * each for each in sketch(tensors)]

        monkeypatch.setattr(build, "sketch", rounded)
        settings = {"checkpoint_every": 1, "resume": "latest"}
        return simulate(tmp_path, "IA3", num_server_rounds=rounds, **settings)

    assert not resume_with(1 + 1e-9, 2).history[-1]["failures"]
    with pytest.raises(CheckpointError, match="the checkpoint has identity"):
        resume_with(1.1, 3)
    ours = [3.0, 1.0, 2.0, 3.0, 9.0]
    assert identity_in([3.0, 1.0, 2.0, 3.0001, 9.0], ours)[3] == 3.0001
    for other in ([4.0, *ours[1:]], ours[:1], None, "3"):
        assert identity_in(other, ours) == ours


def test_dense_updates_are_averaged(tmp_path):
    kind, settings = "VERA", {"method": "dense", "server_optimizer": "sgd"}
    result = simulate(
        tmp_path,
        kind,
        num_server_rounds=1,
        fraction_train=1.0,
        checkpoint_every=1,
        **settings,
    )
    state = read(result.folder / "checkpoints").state
    task = task_of(kind, **settings)
    start, mean = read_adapter(task.model), {}
    for partition in range(4):
        task.load_adapter(start)
        seed = np.random.SeedSequence([task.config.seed, 1, partition])
        task.train(
            task.data.partition(partition, 4), seed=int(seed.generate_state(1)[0])
        )
        for name, array in read_adapter(task.model).items():
            mean[name] = mean.get(name, 0) + array / 4
    expected = state.layout.flatten(mean)
    np.testing.assert_allclose(state.vector, expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_of_a_message_is_untrained(kind):
    task = task_of(kind)
    before, roles = logits(task.model), adapter_roles(task.model)
    task.train(task.data.partition(0, 4), seed=0)
    arrays = read_adapter(task.model)
    others = [n for n in arrays if roles[n] is Role.OTHER]
    assert any(arrays[name].any() for name in others)
    fresh = read_adapter(task_of(kind).model)
    assert not any(fresh[name].any() for name in others)
    write_adapter(task.model, fresh, task.config)
    torch.testing.assert_close(logits(task.model), before)


@pytest.mark.parametrize("kind", ["VERA", "LN_TUNING", "LILY"])
def test_a_model_is_merged_whole_or_not_at_all(kind):
    if kind not in INSTALLED:
        pytest.skip(f"the installed PEFT has no {kind}; a later one has")
    task = task_of(kind)
    task.train(task.data.partition(0, 4), seed=0)
    expected = logits(task.model)
    if kind != "VERA":  # LN_TUNING would leave the head as it was
        with pytest.raises(ValueError, match=f"--merged must not .*{kind}"):
            merged_into(task.model)
        return
    torch.testing.assert_close(
        logits(merged_into(task.model)), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_of_tied_embeddings_is_not_merged(root, built_cache, kind):
    """GPT-2 reads and writes with one table: merged, it would change both."""
    task = language_task(root, kind, lora_targets="lm_head", method="dense")
    task.train(task.data.partition(0, 2), seed=0)
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    with torch.no_grad():
        expected = task.model.eval()(**batch).logits
        if kind == "llama":
            merged = merged_into(task.model)(**batch).logits
            torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
            return
    with pytest.raises(ValueError, match="--merged must not .*lm_head.* shares, as"):
        merged_into(task.model)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", sorted(INSTALLED - REFUSED - NOT_HERE - {"LORA"}))
def test_every_tuner_trains_and_is_exported(tmp_path, kind):
    task = task_of(kind)
    task.train(task.data.partition(0, 4), seed=0)
    arrays, roles = read_adapter(task.model), adapter_roles(task.model)
    assert all(arrays[n].any() for n in arrays if roles[n] is Role.OTHER)
    expected = logits(task.model)
    save(task.model, tmp_path / "adapter", {}, task.scale)
    torch.testing.assert_close(logits(plain(tmp_path / "adapter")), expected)
    # The same values make the same model on another device.
    other = task_of(kind)
    assert alike(tuner_of(other.model).identity, tuner_of(task.model).identity)
    write_adapter(other.model, arrays, other.config)
    torch.testing.assert_close(logits(other.model), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_with_another_frozen_state_is_not_evaluated(tmp_path):
    """Another torch may draw others; PEFT itself would take those in the folder."""
    task = task_of("VERA")
    save(task.model, tmp_path / "adapter", {}, task.scale)
    load_for_evaluation(task.model, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.vera_A"] = 1.1 * tensors["base_model.vera_A"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="frozen state .*'base_model.vera_A'"):
        load_for_evaluation(task.model, tmp_path / "adapter")


def test_a_tuners_dropout_acts_in_training_only():
    model = task_of("VERA", {"vera_dropout": 0.5}).model
    dropouts = [m for n, m in model.named_modules() if n.endswith("dropout.default")]
    model.eval()
    assert dropouts and not any(m.training for m in dropouts)
    train_mode(model)
    assert all(m.training for m in dropouts)
    backbone = [m for n, m in model.named_modules() if "base_layer" in n]
    assert backbone and not any(m.training for m in backbone)


def test_a_toml_file_and_a_saved_config_are_read(tmp_path):
    file = tmp_path / "vera.toml"
    file.write_text('peft_type = "VERA"\nr = 32\n')
    load_task.cache_clear()
    task = load_task(RunConfig.parse({"peft-config": str(file)}))
    assert task.model.peft_config["default"].r == 32
    save(task.model, tmp_path / "adapter", {}, 1.0)
    saved = tmp_path / "adapter" / "adapter_config.json"
    load_task.cache_clear()
    again = load_task(RunConfig.parse({"peft-config": str(saved)}))
    assert read_adapter(again.model).keys() == read_adapter(task.model).keys()


def test_sketches_forgive_rounding_and_nothing_else():
    torch.manual_seed(0)
    state = {"a": torch.randn(50, 20), "b": torch.arange(9)}
    rounded = state | {"a": state["a"] * (1 + 1e-6)}
    assert alike(sketch(state), sketch(rounded))
    swapped = state | {"a": state["a"].flip(0)}
    moved = state | {"b": torch.arange(9).flip(0)}
    for other in (swapped, moved, state | {"a": torch.randn(50, 20)}):
        assert not alike(sketch(state), sketch(other))
    assert not alike([], sketch(state))
