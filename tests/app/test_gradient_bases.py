"""Bases of cores from a first gradient: the factors of one client, and whole runs."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel

from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.runs.saved_adapter import evaluate_adapter
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.training import gradient_bases as module
from flasc_flwr.app.training.cores import layers_of, sides_of, write_bases
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.app.training.recomputing import without_cache
from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint_files import read
from tests.app.built import language_task, text_task

pytestmark = pytest.mark.usefixtures("built_cache")

ALL = {"lora_targets": "all-linear", "batch_size": 8}
GRADIENT = {"method": "fed-sb", "core_basis": "gradient", "lora_rank": 8}


def frozen_weights(task):
    return {
        name: layer.get_base_layer().weight
        for name, layer in layers_of(task.model).items()
    }


def own_gradients(task, examples):
    """Return the summed gradient of each full weight, (out, in), by autograd itself."""
    weights = frozen_weights(task)
    for weight in weights.values():
        weight.requires_grad_(True)
    task.model.eval()
    batch = examples.batch(torch.arange(len(examples)))
    with without_cache(task.model):
        task.model(**batch).loss.backward()
    found = {}
    for name, weight in weights.items():
        turned = getattr(layers_of(task.model)[name], "fan_in_fan_out", False)
        found[name] = (weight.grad.T if turned else weight.grad).numpy().copy()
        weight.requires_grad_(False)
    task.model.zero_grad(set_to_none=True)
    for weight in weights.values():
        weight.grad = None
    return found


def measured(task, examples, ranks):
    bases = module.gradient_bases(task.model, examples, task.config, task.score, ranks)
    return {
        name: tuple(bases[key] for key in module.factor_names(name)) for name in ranks
    }


@pytest.mark.parametrize(
    "made",
    [
        # Transposed weights, and more than one batch.
        lambda root: language_task(root, "gpt2", **GRADIENT, batch_size=8),
        lambda root: language_task(
            root, "llama", **GRADIENT, gradient_checkpointing=True, **ALL
        ),
        lambda root: text_task(root, "bert", **GRADIENT, **ALL),
    ],
    ids=["gpt2", "llama", "bert"],
)
def test_factors_are_those_of_the_sign_of_the_gradient(root, made):
    task = made(root)
    before = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    examples = task.data.partition(0, 2)
    expected = own_gradients(task, examples)
    full = {name: min(sides) for name, sides in sides_of(task.model).items()}
    assert len({sides for sides in sides_of(task.model).values()}) > 1
    for name, (b, a) in measured(task, examples, full).items():
        step, gradient = b @ a, expected[name]
        clear = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
        assert clear.mean() > 0.5
        np.testing.assert_allclose(
            step[clear], -np.sign(gradient[clear]), atol=1e-3, err_msg=name
        )
    for name, parameter in task.model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_refused(root, monkeypatch, value):
    task = text_task(root, "bert", **GRADIENT, **ALL)
    real = module.loss_of
    monkeypatch.setattr(
        module, "loss_of", lambda *given: (real(*given)[0] * value, real(*given)[1])
    )
    ranks = {name: 8 for name in layers_of(task.model)}
    with pytest.raises(ValueError, match="the first gradient must be finite"):
        measured(task, task.data.partition(0, 2), ranks)


def test_a_rank_has_the_largest_singular_vectors_however_modules_are_grouped(
    root, monkeypatch
):
    task = language_task(root, "gpt2", **GRADIENT)
    examples = task.data.partition(0, 2)
    ranks = dict.fromkeys(sides_of(task.model), 3)
    at_once = measured(task, examples, ranks)
    monkeypatch.setattr(module, "_MOST_ENTRIES", 1)
    one_by_one = measured(task, examples, ranks)
    full = {name: min(sides) for name, sides in sides_of(task.model).items()}
    whole = measured(task, examples, full)
    for name, (b, a) in at_once.items():
        np.testing.assert_array_equal(one_by_one[name][0], b)
        np.testing.assert_array_equal(one_by_one[name][1], a)
        u, s, vt = np.linalg.svd(np.matmul(*whole[name]).astype(np.float64))
        best = (u[:, :3] * s[:3]) @ vt[:3]
        error = np.linalg.norm(whole[name][0] @ whole[name][1] - b @ a)
        least = np.linalg.norm(whole[name][0] @ whole[name][1] - best)
        assert error < 1.01 * least
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-5)


def simulate(folder, ranks=(None, None, 3, 6), **settings):
    from tests.app.test_core_runs import simulate

    common = {"fraction_train": 1.0, "client_learning_rate": 0.02} | GRADIENT
    return simulate(folder, ranks=ranks, **(common | settings))


@pytest.fixture
def grids(monkeypatch):
    """The grids of simulated runs: their nodes' states are looked at afterwards."""
    made = []

    class Kept(LocalGrid):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr("tests.app.test_core_runs.LocalGrid", Kept)
    return made


def held(grid, node):
    """Return the bases that a node keeps."""
    record = grid._contexts[node].state.array_records["flasc.memory/bases"]
    payload = record["payload"].numpy().tobytes()
    layout = read_layout(payload)
    return layout.unflatten(decode(payload, layout.size).densify())


def test_devices_of_unequal_ranks_train_between_the_servers_bases(tmp_path, grids):
    """And the adapter that a run leaves is the server's model, as plain LoRA."""
    whole = simulate(
        tmp_path / "whole",
        num_server_rounds=3,
        checkpoint_every=1,
        value_format="bfloat16",
    )
    measuring, first, last = whole.history[1:]
    assert measuring["loss"] == whole.history[0]["loss"] > 1.1 * last["loss"]
    assert [row["dead_modules"] for row in whole.history] == [None, None, 0, 0]
    assert measuring["ranks"] == {"3": 1, "6": 1, "8": 2}
    (file,) = (whole.folder / "checkpoints").glob("*3*")
    bases = read(file).state.bases
    for node, rank in enumerate((8, 8, 3, 6), start=1):
        for name, part in held(grids[0], node).items():
            b = ".lora_B." in name
            same = bases[name][:, :rank] if b else bases[name][:rank]
            np.testing.assert_array_equal(part, same)
    # 8 modules of 128 x 128, in two bytes a value less what coding saves.
    entries = 8 * (128 + 128) * (8 + 8 + 3 + 6)
    more = first["payload_bytes_down"] - last["payload_bytes_down"]
    assert 1.2 * entries < more < 2 * entries
    assert 1.2 * entries < measuring["payload_bytes_up"] < 2.2 * entries
    public, _, test = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"])
    saved = json.loads((whole.folder / "adapter/adapter_config.json").read_text())
    assert saved["r"] == 8
    model = PeftModel.from_pretrained(backbone, str(whole.folder / "adapter"))
    outcome = evaluate_model(model, Examples.of(test), RunConfig())
    assert outcome.loss == pytest.approx(whole.summary["loss"], rel=1e-4)
    again = evaluate_adapter(whole.folder / "adapter", {})
    assert again["loss"] == pytest.approx(whole.summary["loss"], rel=1e-4)


def test_a_run_with_heads_and_segments_resumes_after_measuring(tmp_path, grids):
    settings = {
        "method": "ravan",
        "checkpoint_every": 1,
        "max_steps": 1,
        "upload_segments": 2,
        "download_density": "1/2",
    }
    whole = simulate(tmp_path / "whole", **settings, num_server_rounds=3)
    simulate(tmp_path / "parts", **settings, num_server_rounds=2)
    resumed = simulate(
        tmp_path / "parts", **settings, num_server_rounds=3, resume="latest"
    )
    assert resumed.summary["loss"] == whole.summary["loss"]
    assert not any(row["failures"] for row in resumed.history)
    # Its devices are new ones, and are sent the bases again.
    again, once = (run.history[3]["payload_bytes_down"] for run in (resumed, whole))
    assert again > 2 * once


def test_settings_that_do_not_go_with_measured_bases_are_refused():
    given = RunConfig().to_dict() | {"method": "fed-sb", "core-basis": "gradient"}
    private = {"dp-clip-norm": 1.0, "dp-noise-multiplier": 1.0, "dp-population": 20}
    for settings, said in (
        ({"method": "flasc"}, "core-basis must be 'seed' or 'weights' with method 'fl"),
        ({"upload-bytes": 9000}, "upload-bytes must be 0 with core-basis 'gradient'"),
        ({"download-bytes": 9000}, "download-bytes must be 0 with core-basis 'gradi"),
        ({"error-feedback": "both"}, "error-feedback must be 'none' with core-basis"),
        ({"num-server-rounds": 1}, "num-server-rounds must be >= 2 with core-basis"),
        (
            {"aggregation": "zero-padded-updates"} | private,
            "with differential privacy, core-basis must be 'seed' or 'weights', "
            "because clients' first gradients would be sent without noise",
        ),
        (
            {"local-dp-epsilon": 0.5, "local-dp-clip-norm": 1.0},
            "with local differential privacy, core-basis must be 'seed' or 'weights'",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            RunConfig.parse(given | settings)
    RunConfig.parse(given)


def test_a_message_without_bases_is_refused():
    with pytest.raises(
        ValueError, match="the message must have the bases of the cores"
    ):
        module.require_bases({}, RunConfig(method="fed-sb", core_basis="gradient"))
    module.require_bases({}, RunConfig(method="fed-sb"))


@pytest.fixture
def small(root):
    return text_task(root, "bert", **GRADIENT)


def factors_for(task, name, rank=8):
    """Return the names of a module's factors, and empty arrays of a rank for all."""
    arrays = {n: v for n, v in read_adapter(task.model).items() if "core" not in n}
    for core, (out, inputs) in sides_of(task.model).items():
        b, a = module.factor_names(core)
        arrays |= {b: np.zeros((out, rank)), a: np.zeros((rank, inputs))}
    return *module.factor_names(name), arrays


def test_a_message_that_measures_what_the_model_has_not_is_refused(small):
    name = next(iter(sides_of(small.model)))
    b, a, arrays = factors_for(small, name)
    examples = small.data.partition(0, 2)
    for wrong in (
        {b: None},
        {a: None},
        {a: np.zeros(())},
        {a: np.zeros((8, 5))},
        {a: np.zeros((0, 16)), b: np.zeros((16, 0))},
        {a: np.zeros((17, 16)), b: np.zeros((16, 17))},
    ):
        sent = {n: v for n, v in (arrays | wrong).items() if v is not None}
        with pytest.raises(ValueError, match="must have shapes .* of one rank"):
            small.measure_bases(sent, examples, seed=0)
    found, _ = small.measure_bases(arrays, examples, seed=0)
    assert {n: v.shape for n, v in found.items()} == {
        n: v.shape for n, v in arrays.items()
    }


def test_bases_that_do_not_fit_the_model_are_refused(small):
    b, a, arrays = factors_for(small, next(iter(sides_of(small.model))))
    bases = {n: v for n, v in arrays.items() if ".lora_" in n}
    for wrong in (
        {b: np.zeros(16)},
        {a: np.zeros(16)},
        {a: np.zeros(())},
        {b: np.zeros((16, 8, 1))},
        {b: np.zeros((16, 9))},
    ):
        with pytest.raises(ValueError, match="bases .* must fit into shape"):
            write_bases(small.model, bases | wrong)
    write_bases(small.model, bases)
