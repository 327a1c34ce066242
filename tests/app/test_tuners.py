"""PEFT's other tuners, from a PEFT config: whole runs, exports, and refusals."""

import json

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import client_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.runs.saved_adapter import trained_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.export import save
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.app.training.lora import adapter_roles, read_adapter, write_adapter
from flasc_flwr.app.training.tuners.build import train_mode, tuner_of
from flasc_flwr.app.training.tuners.frozen import alike, sketch
from flasc_flwr.core.layout import Role
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint_files import read
from tests.app.test_apps import run

INSTALLED = {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
KINDS = sorted({"VERA", "UNILORA", "FOURIERFT", "IA3"} & INSTALLED)
QUICK = ("IA3", "UNILORA")
NEED = {
    "C3A": {"block_size": 64},
    "VBLORA": {"vector_length": 64, "num_vectors": 16},
    "LN_TUNING": {"target_modules": ["layernorm_before", "layernorm_after"]},
    "BONE": {"r": 64},
}
"""Fields that a tuner needs for this model."""

NOT_HERE = {"TRAINABLE_TOKENS"}
"""Tuners of embeddings, which this model has none of."""

REFUSED = {
    *("ADALORA", "POLY", "XLORA", "SHADOW", "PROMPT_TUNING", "P_TUNING", "CPT"),
    *("PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE"),
}


def text_of(kind, **fields):
    return json.dumps({"peft_type": kind} | NEED.get(kind, {}) | fields)


def task_of(kind, fields=None, **settings):
    load_task.cache_clear()
    given = {"peft_config": text_of(kind, **(fields or {})), "max_steps": 4}
    given |= {"client_optimizer": "adamw", "client_learning_rate": 0.01} | settings
    return load_task(
        RunConfig.parse({k.replace("_", "-"): v for k, v in given.items()})
    )


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora-rank": 4}, "lora-rank must be 16 .*own rank, got 4"),
        ({"lora-targets": "query"}, "lora-targets must be 'auto' .*target_modules"),
        ({"use-dora": True}, "use-dora must be false .*got true"),
        ({"adapter": "/a"}, "adapter must be '' .*begins at a new adapter"),
        ({"method": "full"}, "'' with method 'full', which has no adapter"),
        ({"method": "ffa-lora"}, "method 'ffa-lora', which draws A from a seed"),
        ({"method": "rolora"}, "method 'rolora', which trains A and B apart"),
        ({"method": "hetlora-tiers"}, "tiers 'rank'"),
        ({"method": "replication"}, "rank-assignment 'validation'"),
        ({"aggregation": "fair", "server-optimizer": "sgd"}, "aggregation 'fair'"),
        ({"aggregation": "frobenius"}, "'frobenius', which computes with B A"),
        ({"score": "product"}, "score 'product'"),
        ({"method": "fedex-lora"}, "exact-residual"),
    ],
)
def test_what_needs_factors_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse({"peft-config": text_of("VERA")} | settings)


@pytest.mark.parametrize("method", ["flasc", "dense", "flasc-ef", "segments"])
def test_methods_without_factors_are_allowed(method):
    RunConfig.parse({"peft-config": text_of("VERA"), "method": method})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "VERY"}, "peft_type must be one of .*VERA.*, got 'VERY'"),
        ({}, "peft_type must be one of .*got 'None'"),
        ({"peft_type": "VERA", "rank": 3}, "'rank' is not a field of VERA"),
        ({"peft_type": "VERA", "vera_drpout": 0.1}, "did you mean vera_dropout?"),
        ({"peft_type": "VERA", "r": "8"}, "Field 'r' expected int, got str"),
        (
            {"peft_type": "VERA", "modules_to_save": ["lm_head"]},
            "modules_to_save must be left out or .*classifier.*got .*lm_head",
        ),
        ({"peft_type": "VERA", "target_modules": ["w"]}, "does not fit the model: .*w"),
        ({"peft_type": "PROMPT_TUNING"}, "'PROMPT_TUNING' cannot .*the model's input"),
        ({"peft_type": "ADALORA"}, "'ADALORA' cannot .*changes ranks"),
        (
            {
                "peft_type": "LORA",
                "r": 4,
                "use_dora": True,
                "target_modules": ["query", "value"],
                "alpha_pattern": {"query": 2},
            },
            "set instead lora-rank = 4, use-dora = true, lora-targets = 'query,value', "
            "lora-alpha = 8.0; the run config has no alpha_pattern",
        ),
    ],
    ids=str,
)
def test_a_wrong_config_names_the_file_and_the_field(tmp_path, fields, message):
    file = tmp_path / "tuner.json"
    file.write_text(json.dumps(fields))
    load_task.cache_clear()
    with pytest.raises(ValueError, match=message) as caught:
        load_task(RunConfig.parse({"peft-config": str(file)}))
    assert "tuner.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "'.*a.json' is not valid JSON"),
        ("a.toml", "= 1", "'.*a.toml' is not valid TOML"),
        ("a.json", "[1]", "must be a table of fields, got list"),
        ("a.yaml", "r: 1", "must be the absolute path of a .json or .toml file"),
        ("a.json", None, "must be a file that is there"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    load_task.cache_clear()
    with pytest.raises(ValueError, match=f"peft-config.*{message}"):
        load_task(RunConfig.parse({"peft-config": str(tmp_path / name)}))


def test_projections_that_no_seed_gives_are_refused(monkeypatch):
    from peft.tuners.vera import model as vera

    def drawn(shape, generator):
        return torch.randn(shape)  # the global generator, and not the config's

    monkeypatch.setattr(vera, "_kaiming_init", drawn)
    with pytest.raises(ValueError, match="VERA draws .*vera_A.* at random"):
        task_of("VERA")


def test_weights_that_a_tuner_changes_are_refused(monkeypatch):
    from peft.tuners.vera.layer import VeraLayer

    update = VeraLayer.update_layer

    def changing(self, *args, **kwargs):
        update(self, *args, **kwargs)
        with torch.no_grad():
            self.get_base_layer().weight.mul_(0.5)

    monkeypatch.setattr(VeraLayer, "update_layer", changing)
    with pytest.raises(ValueError, match="must leave the model's own weights"):
        task_of("VERA")


def test_a_device_with_another_file_or_state_does_not_take_part(tmp_path, monkeypatch):
    file, sent = tmp_path / "tuner.json", []
    file.write_text(text_of("VERA"))
    config = {"peft-config": str(file), "max-steps": 1}

    def device(message, context: Context):
        if "arrays" in message.content:
            sent.append(message)
        return client_app.app(message, context)

    grid = LocalGrid(device, 2, run_config=config)
    load_task.cache_clear()
    run(
        tmp_path / "out", grid, num_server_rounds=1, lora_rank=16, peft_config=str(file)
    )
    assert [len(m.content["config"]["identity"]) for m in sent] == [9, 9]
    message = sent[0]
    context = grid._contexts[1]

    def reply():
        return client_app.app(
            message, Context(0, 1, context.node_config, RecordDict(), config)
        )

    for secret in ('{"password": "swordfish"}', "swordfish", text_of("VERA", r=8)):
        file.write_text(secret)
        with pytest.raises(ValueError, match="same fields as the server's") as caught:
            reply()
        assert "swordfish" not in str(caught.value)
        assert "password" not in str(caught.value)
    file.write_text(text_of("VERA"))
    state = message.content["config"]["identity"]
    message.content["config"]["identity"] = [state[0], *(1.1 * s for s in state[1:])]
    with pytest.raises(ValueError, match="same initial values and frozen state"):
        reply()


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
