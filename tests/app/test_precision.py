"""The precision of the backbone, and of what is trained in it."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from flasc_flwr.app.training.lora import adapter_tensors, read_adapter, write_adapter
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.ranks import truncation
from tests.app.built import image_task, language_task, text_task
from tests.app.tiny import CONFIGS, save_model

pytestmark = pytest.mark.usefixtures("built_cache")

HALF, FULL = torch.bfloat16, torch.float32


@pytest.fixture(scope="module")
def saved_in(root, tmp_path_factory):
    """Return a folder with the models of `root`, saved in a dtype."""

    def save(dtype, kinds=tuple(CONFIGS)):
        folder = tmp_path_factory.mktemp(str(dtype))
        for file in root.iterdir():
            if file.is_file():
                (folder / file.name).symlink_to(file)
        for kind in kinds:
            save_model(folder / kind, kind)
            auto = AutoModelForCausalLM if kind in ("gpt2", "llama") else AutoModel
            model = auto.from_pretrained(folder / kind)
            model.to(dtype).save_pretrained(folder / kind)
        return folder

    return save


@pytest.fixture(scope="module")
def halves(saved_in):
    return saved_in(HALF)


def build(kind):
    def text(root, **settings):
        return text_task(root, kind, **settings)

    return {"vit": image_task, "language": language_task}.get(kind, text)


def dtypes(task):
    """Return the precisions of frozen and of trained parameters."""
    federated = {t.data_ptr() for t in adapter_tensors(task.model).values()}
    found = {True: set(), False: set()}
    for name, parameter in task.model.named_parameters():
        # PEFT keeps the head that it has copied.
        if "original_module" not in name:
            found[parameter.data_ptr() in federated].add(parameter.dtype)
    return found[False], found[True]


KINDS = ["bert", "roberta", "distilbert", "albert", "gpt2", "llama", "vit", "language"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_stays_in_bfloat16_and_the_adapter_in_float32(root, halves, kind):
    task = build(kind)(halves, client_optimizer="adamw")
    assert dtypes(task) == ({HALF}, {FULL})
    assert {a.dtype.name for a in read_adapter(task.model).values()} == {"float32"}
    frozen = {n: p.clone() for n, p in task.model.named_parameters() if p.dtype == HALF}
    before = read_adapter(task.model)
    outcome = task.train(task.data.partition(0, 4), seed=0)
    changed = [n for n, a in read_adapter(task.model).items() if (a != before[n]).any()]
    assert changed
    assert all(torch.equal(task.model.get_parameter(n), p) for n, p in frozen.items())
    exact = build(kind)(root, client_optimizer="adamw")
    loss = exact.train(exact.data.partition(0, 4), seed=0).loss
    assert outcome.loss == pytest.approx(loss, rel=0.1)
    assert task.evaluate(task.data.test).loss == pytest.approx(
        exact.evaluate(exact.data.test).loss, rel=0.1
    )


@pytest.mark.parametrize("kind", ["bert", "language"])
@pytest.mark.parametrize(
    ("saved", "precision", "kept"),
    [
        (HALF, "float32", FULL),
        (torch.float16, "auto", FULL),
        (torch.float16, "bfloat16", HALF),
        (FULL, "auto", FULL),
        (FULL, "bfloat16", HALF),
    ],
)
def test_the_precision_is_a_setting(saved_in, kind, saved, precision, kept):
    folder = saved_in(saved, ["gpt2" if kind == "language" else kind])
    task = build(kind)(folder, backbone_precision=precision)
    assert dtypes(task) == ({kept}, {FULL})


def test_a_head_on_the_mean_and_a_head_without_factors(halves):
    mean = text_task(halves, "bert", head="mean")
    assert dtypes(mean) == ({HALF}, {FULL})
    mean.train(mean.data.partition(0, 4), seed=0)
    linear = text_task(halves, "roberta", method="linear")
    assert dtypes(linear) == ({HALF}, {FULL})
    linear.train(linear.data.partition(0, 4), seed=0)


def test_methods_that_change_the_backbone_keep_it_in_float32(root, halves):
    for method in ("full", "flora", "fedex-lora"):
        task = text_task(halves, "bert", method=method)
        assert {p.dtype for p in task.model.parameters()} == {FULL}
        expected = "backbone-precision must be 'auto' or 'float32' with method .*chang"
        with pytest.raises(ValueError, match=expected):
            text_task(root, "bert", method=method, backbone_precision="bfloat16")


def test_adapters_of_other_ranks_are_float32_too(halves):
    task = text_task(halves, "roberta")
    layout = Layout.of(read_adapter(task.model))
    small = truncation(layout, 1)
    vector = np.random.default_rng(0).normal(0, 0.1, layout.size).astype(np.float32)
    write_adapter(
        task.model, small.layout.unflatten(small.truncate(vector)), task.config
    )
    assert dtypes(task)[1] == {FULL}
    np.testing.assert_array_equal(
        small.layout.flatten(read_adapter(task.model)), small.truncate(vector)
    )
    task.train(task.data.partition(0, 4), seed=0)
