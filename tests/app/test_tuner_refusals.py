"""PEFT configs that are refused: by the run config, the model, or a device."""

import json

import pytest
import torch
from flwr.app import Context, RecordDict

import client_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.tuners.build import with_tuner
from flasc_flwr.app.training.tuners.config_file import read
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.built import text_task
from tests.app.test_apps import run
from tests.app.tuners import task_of, text_of


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
        (
            {"peft_type": "VERA", "target_modules": ["q_proj", "w"]},
            "target_modules must name its modules, got 'w'",
        ),
        (
            {"peft_type": "VERA", "layers_to_transform": [0]},
            "layers_to_transform needs a list of target_modules",
        ),
        (
            {
                "peft_type": "VERA",
                "target_modules": ".*q_proj",
                "layers_to_transform": 0,
            },
            "layers_to_transform needs a list of target_modules",
        ),
        (
            {"peft_type": "LOHA", "rank_pattern": {"q_proj|query": 2, "w": 4}},
            "rank_pattern must name adapted modules, got 'w'",
        ),
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
        ("a" * 300 + ".json", None, "must be a file that is there"),
        ("a.json", f'{{"r": {1 << 64}}}', "integers of at most 64 bits"),
        ("a.json", '{"d_initial": NaN}', "finite numbers, got nan"),
        ("a.json", '{"d_initial": [1e999]}', "finite numbers, got inf"),
        ("a.toml", "d_initial = -inf", "finite numbers, got -inf"),
        ("a.toml", "revision = 2020-01-01", "texts, .*got date"),
        ("a.json", f'{{"revision": {"[" * 500}{"]" * 500}}}', "nested levels"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    load_task.cache_clear()
    with pytest.raises(ValueError, match=f"peft-config.*{message}"):
        load_task(RunConfig.parse({"peft-config": str(tmp_path / name)}))


def test_a_path_below_an_unknown_home_is_refused():
    with pytest.raises(ValueError, match="peft-config must be a file that is there"):
        read("~nobody-of-this-name/a.json")


def test_projections_that_no_seed_gives_are_refused(monkeypatch):
    from peft.tuners.vera import model as vera

    def drawn(shape, generator):
        return torch.randn(shape)  # the global generator, and not the config's

    monkeypatch.setattr(vera, "_kaiming_init", drawn)
    with pytest.raises(ValueError, match="VERA draws .*vera_A.* at random"):
        task_of("VERA")


def test_tensors_that_keep_the_backbones_precision_are_refused(root, built_cache):
    """LayerNorm tuning trains copies of the model's own tensors."""
    settings = {"lora_rank": 16, "lora_alpha": 16.0, "backbone_precision": "bfloat16"}
    text = text_of("LN_TUNING", target_modules=["LayerNorm"])
    with pytest.raises(
        ValueError, match="backbone-precision must be 'float32' with .*LN_TUNING.*'bfl"
    ):
        text_task(root, "bert", peft_config=text, **settings)


@pytest.mark.parametrize("kind", ["UNILORA", "PEANUT", "HRA"])
def test_tuners_that_read_packed_weights_as_numbers_are_refused(kind):
    """They would train, and be another model on the weights themselves."""
    config = RunConfig(peft_config=text_of(kind), quantize="8bit")
    with pytest.raises(ValueError, match=f"quantize must be 'none' with .*{kind}.*VER"):
        with_tuner(None, config, "all-linear", [])


def test_a_tuner_that_adapts_nothing_is_refused(root, built_cache):
    """GPT-2's layers are not of a kind that OSF knows: it would train the head only."""
    settings = {"lora_rank": 16, "lora_alpha": 16.0}
    with pytest.raises(ValueError, match="of type OSF adapts no module of this model"):
        text_task(root, "gpt2", peft_config=text_of("OSF"), **settings)


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
    file.write_text(text_of("VERA", r=256))
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

    secrets = ['{"password": "swordfish"}', "swordfish", text_of("VERA", r=8)]
    secrets.append('{"password": ["swordfish", NaN]}')
    for secret in secrets:
        file.write_text(secret)
        with pytest.raises(ValueError, match="same fields as the server's") as caught:
            reply()
        assert "swordfish" not in str(caught.value)
        assert "password" not in str(caught.value)
    fields = json.loads(text_of("VERA", r=256))
    file.write_text(json.dumps(dict(reversed(fields.items()))))  # the same fields
    assert reply().content.array_records
    file.write_text(text_of("VERA", r=256))
    state = message.content["config"]["identity"]
    message.content["config"]["identity"] = [state[0], *(1.1 * s for s in state[1:])]
    with pytest.raises(ValueError, match="same initial values and frozen state"):
        reply()
