"""A head of low rank, and heads with their own density and value format, in runs."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn

import client_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.runs.saved_adapter import trained_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.identity import identity_of, require_alike
from flasc_flwr.app.training.local import evaluate_model
from flasc_flwr.app.training.lora import (
    adapter_roles,
    adapter_tensors,
    read_adapter,
)
from flasc_flwr.app.training.low_rank_head import (
    LowRankLinear,
    dense_heads,
    factor_head,
)
from flasc_flwr.core.codec import decode, read_layout
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import CONTROL, holds_payload, payload_of
from tests.app.built import text_task
from tests.app.test_apps import run


def simulate(folder, grid=None, **settings):
    load_task.cache_clear()
    return run(folder, grid, **{"lora_rank": 2, "max_steps": 4} | settings)


def layer(inputs=30, outputs=10, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


def test_it_starts_at_the_nearest_layer_of_its_rank():
    linear, x = layer(), torch.randn(5, 30)
    u, s, v = np.linalg.svd(linear.weight.detach().numpy())
    nearest = (u[:, :4] * s[:4]) @ v[:4]
    low = LowRankLinear(linear, 4)
    assert sum(p.numel() for p in low.parameters()) == 4 * 40 + 10
    expected = x.numpy() @ nearest.T + linear.bias.detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(low(x), expected, atol=1e-5)
        np.testing.assert_allclose(low.dense()(x), expected, atol=1e-5)
    bare = LowRankLinear(nn.Linear(30, 10, bias=False), 2)
    assert bare.up.bias is None and bare.dense().bias is None


def test_only_layers_of_the_head_that_get_smaller_are_factored():
    model = nn.ModuleDict(
        {
            "body": layer(),
            "head": nn.Sequential(layer(30, 30), nn.Tanh(), layer(30, 2)),
            "header": layer(),
        }
    )
    factor_head(model, ["head"], 3)
    kinds = [isinstance(m, LowRankLinear) for m in model["head"]]
    assert kinds == [True, False, False]
    assert type(model["body"]) is type(model["header"]) is nn.Linear
    with dense_heads(model):
        assert type(model["head"][0]) is nn.Linear
    assert isinstance(model["head"][0], LowRankLinear)
    with pytest.raises(ValueError, match=r"head-rank must be at most 7 for .*\(body\)"):
        factor_head(model, ["body"], 8)
    with pytest.raises(ValueError, match=r"head-rank must be 0 .*\(no modules\)"):
        factor_head(model, [], 8)


@pytest.mark.parametrize("method", ["flasc", "linear", "fedex-lora"])
def test_a_run_exports_its_head_as_one_layer(tmp_path, method):
    result = simulate(tmp_path, head_rank=3, method=method)
    head = 3 * (128 + 10) + 10
    factors = 8 * 2 * 256 * (method != "linear")
    assert result.summary["adapter_parameters"] == head + factors
    public, _, test = parts()
    model = pretrained_backbone(public["pixel_values"], public["labels"])
    if method != "linear":
        model = PeftModel.from_pretrained(model, str(result.folder / "adapter"))
    else:
        model = type(model).from_pretrained(result.folder / "adapter")
    assert np.linalg.matrix_rank(weight_of(model).numpy(), tol=1e-5) <= 3
    outcome = evaluate_model(model, Examples.of(test), RunConfig())
    assert outcome.loss == pytest.approx(result.summary["loss"], rel=1e-4)
    load_task.cache_clear()
    task = trained_task(result.folder, {})
    assert task.evaluate(task.data.test).loss == pytest.approx(outcome.loss, rel=1e-5)


def weight_of(model):
    return next(
        p.detach()
        for n, p in reversed(list(model.named_parameters()))
        if n.endswith(
            ("classifier.weight", "classifier.modules_to_save.default.weight")
        )
    )


def test_it_is_trained_in_float32_on_a_backbone_in_bfloat16(root, built_cache):
    task = text_task(root, "bert", head_rank=1, backbone_precision="bfloat16")
    assert task.model.dtype == torch.bfloat16
    before = read_adapter(task.model)
    task.train(task.data.partition(0, 2), seed=0)
    after = read_adapter(task.model)
    head = [name for name in after if ".classifier." in name]
    assert {after[name].dtype for name in head} == {np.dtype(np.float32)}
    assert all((before[name] != after[name]).any() for name in head)


def test_both_factors_of_the_head_are_trained_in_its_role():
    load_task.cache_clear()
    task = load_task(RunConfig.parse({"head-rank": 3, "max-steps": 3}))
    before = read_adapter(task.model)
    task.train(task.data.partition(0, 4), seed=0)
    after = read_adapter(task.model)
    head = [t.name for t in Layout.of(after).tensors if t.role is Role.HEAD]
    ends = {name.split("classifier.")[1] for name in head}
    assert ends == {"down.weight", "up.weight", "up.bias"}
    assert all((before[name] != after[name]).any() for name in head)
    assert {
        p.shape[0] for n, p in adapter_tensors(task.model).items() if "down" in n
    } == {3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "full"}, "head-rank must be 0 with method 'full'.*got 3"),
        ({"adapter": "/a"}, "head-rank must be 0 with an adapter.*got 3"),
        ({"head-rank": -1}, "head-rank must be an integer >= 0"),
        ({"head-density": 0}, "head-density must be 'auto' or a number in"),
        ({"head-format": "int2"}, "head-format must be one of"),
        ({"head-density": 0.5, "upload-segments": 2}, "densities of roles .* 'auto'"),
        ({"method": "ffa-lora", "a-density": 0.5}, "a-density .* whose A never travel"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse({"head-rank": 3} | settings)


def test_a_config_keeps_them():
    given = {"head-density": "1/8", "a-density": 0.5, "head-format": "int4"}
    config = RunConfig.parse(given)
    assert config.to_dict()["head-density"] == 1 / 8
    assert config.to_dict()["b-density"] == "auto"
    assert RunConfig.parse(config.to_dict()) == config
    assert config.values == "bfloat16+head=int4"
    assert RunConfig().values == "bfloat16"


class Recording(LocalGrid):
    """Keeps the messages of training and their replies."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sent, self.replied = [], []

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += [m for m in messages if "arrays" in m.content]
        ids = super().push_messages(messages)
        self.replied += [
            self._replies[i] for i in ids if "arrays" in self._replies[i].content
        ]
        return ids


@pytest.mark.parametrize("method", ["flasc", "linear", "full"])
def test_a_head_with_its_own_density_travels_as_a_difference(method):
    config = RunConfig.parse({"head-density": 1 / 8, "method": method})
    load_task.cache_clear()
    task = load_task(config)
    arrays = read_adapter(task.model)
    layout = Layout.of(arrays, adapter_roles(task.model))
    head = [t.name for t in layout.tensors if t.role is Role.HEAD]
    assert head and not any(arrays[name].any() for name in head)
    before = evaluate_model(task.model, task.data.validation, config).loss
    task.load_adapter(arrays | {name: np.zeros_like(arrays[name]) for name in head})
    assert evaluate_model(task.model, task.data.validation, config).loss == before
    ours = identity_of(task.model, config)
    require_alike(task.model, config, ours)
    for other in ([*ours[:1], *(1.01 * x for x in ours[1:])], [], None, ours[:-1]):
        with pytest.raises(ValueError, match="head-density needs the same initial"):
            require_alike(task.model, config, other)
    assert identity_of(task.model, RunConfig()) == []


@pytest.mark.parametrize("method", ["dense", "flasc", "linear", "full"])
def test_what_travels_of_the_head(tmp_path, method):
    settings = {"head_density": 1 / 8, "head_format": "int4", "method": method}
    settings |= {"num_server_rounds": 2, "lora_rank": 2, "max_steps": 4}
    config = {k.replace("_", "-"): v for k, v in settings.items()}
    grid = Recording(client_app.app, 4, run_config=config)
    result = simulate(tmp_path, grid, **settings)
    layout = read_layout(payload_of(grid.sent[-1].content["arrays"]))
    head = [t.role is Role.HEAD for t in layout.tensors]
    size = sum(t.size for t in layout.tensors if t.role is Role.HEAD)
    assert size == 1290
    for message in (grid.sent[-1], grid.replied[-1]):
        record = message.content["arrays"]
        assert holds_payload(record)
        sparse = decode(payload_of(record), layout.size)
        counts = layout.counts(sparse.positions)
        assert counts[head].sum() <= size / 8
        assert counts[head].sum() > size / 16
        values = sparse.values[np.repeat(head, counts)]
        assert len(np.unique(np.abs(values))) <= 7  # the levels of int4
        if method == "dense":
            assert counts.sum() > 0.9 * (layout.size - size) / 2  # B was zero
    control = grid.sent[-1].content[CONTROL]
    assert control["role-densities"] == [0.0, 0.0, 1 / 8, 0.0]
    assert control["value-format"].endswith("+head=int4")
    assert result.history[2]["failures"] == []


@pytest.mark.parametrize("key", ["other_density", "a_density"])
def test_a_density_that_would_act_on_nothing_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key[:-8]}-density .*use head-density"):
        simulate(tmp_path, method="linear", **{key: 0.5})


def test_a_devices_own_density_may_be_exceeded_by_a_role_only_as_declared(tmp_path):
    settings = {"head_density": 1.0, "num_server_rounds": 1, "max_steps": 2}
    config = {k.replace("_", "-"): v for k, v in (settings | {"lora_rank": 2}).items()}
    own = {"upload-density": 1 / 16, "download-density": 1 / 16}
    nodes = [own, own | {"strict-budget": True}, own, own | {"strict-budget": True}]
    grid = LocalGrid(client_app.app, 4, run_config=config, node_configs=nodes)
    result = simulate(tmp_path, grid, fraction_train=1.0, **settings)
    failures = result.history[1]["failures"]
    assert result.history[1]["replies"] == len(failures) == 2
    assert all("strict-budget" in failure["reason"] for failure in failures)
