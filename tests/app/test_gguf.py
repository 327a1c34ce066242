"""Models in GGUF files: what is loaded, what is kept, and what is refused."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import gguf as gguf_files
from flasc_flwr.app.tasks.checkpoints import load_checkpoint, require_folder
from flasc_flwr.app.tasks.sources import model_path
from flasc_flwr.app.tasks.tokenizer import load_tokenizer
from flasc_flwr.app.training.export import save
from tests.app.files import text_task
from tests.app.tiny import texts, write_jsonl

pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from tests.app.tiny_gguf import TEMPLATE, save_gguf  # noqa: E402


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Return a folder with a GGUF file in a Python package."""
    folder = tmp_path_factory.mktemp("gguf")
    package = folder / "flasc_tiny_llm"
    package.mkdir()
    (package / "__init__.py").touch()
    save_gguf(package / "tiny.gguf")
    return folder


@pytest.fixture
def folder(shared, monkeypatch):
    monkeypatch.setattr(gguf_files, "user_cache_path", lambda _: shared / "cache")
    return shared


@pytest.fixture
def file(folder):
    return folder / "flasc_tiny_llm" / "tiny.gguf"


def config_of(model, **settings):
    given = {"task": "causal-lm", "model": str(model), "partitioner": "iid"}
    return RunConfig.parse(given | settings)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 70, 80, 90]])).logits


def test_the_model_is_the_one_that_transformers_reads(file):
    model = load_checkpoint("AutoModelForCausalLM", config_of(file))
    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_tokenizer_comes_with_its_chat_template(file):
    tokenizer = load_tokenizer(config_of(file))
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.decode(tokenizer("abc ab")["input_ids"]) == "abc ab"
    assert (tokenizer.eos_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)


def test_half_the_bytes_in_bfloat16(file):
    half = {"backbone-precision": "bfloat16"}
    model = load_checkpoint("AutoModelForCausalLM", config_of(file, **half))
    exact = load_checkpoint("AutoModelForCausalLM", config_of(file))
    assert model.dtype == torch.bfloat16
    for name, parameter in exact.named_parameters():
        assert torch.equal(parameter.bfloat16(), model.get_parameter(name))


def test_a_file_in_a_package(file, folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    name = "package:flasc_tiny_llm/tiny.gguf"
    assert model_path(name) == str(file)
    assert require_folder(config_of(name)) == require_folder(config_of(file))
    with pytest.raises(ValueError, match="a GGUF file in the package 'flasc_tiny_llm'"):
        model_path("package:flasc_tiny_llm/other.gguf")
    with pytest.raises(ValueError, match=r"not installed \(pip install no-such-llm\)"):
        model_path("package:no_such_llm/tiny.gguf")


def test_it_is_read_once_and_again_when_it_changed(folder, monkeypatch):
    path = save_gguf(folder / "changing.gguf")
    calls = []
    convert = gguf_files._convert
    monkeypatch.setattr(
        gguf_files, "_convert", lambda *a: (calls.append(a), convert(*a))
    )
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(require_folder, [config_of(path)] * 3))
    assert len(calls) == len(found) == 1
    before = path.stat()
    save_gguf(path, seed=1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert require_folder(config_of(path)) not in found
    assert len(calls) == 2


def test_an_interrupted_conversion_is_repeated(folder, monkeypatch):
    path = save_gguf(folder / "interrupted.gguf")

    def fails(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(gguf_files.os, "rename", fails)
        with pytest.raises(ValueError, match=r"interrupted.gguf' could not be .*full"):
            require_folder(config_of(path))
    assert load_checkpoint("AutoModelForCausalLM", config_of(path)) is not None


def test_what_cannot_be_read_is_refused(folder, file, monkeypatch):
    broken = folder / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match=r"broken.gguf' could not be loaded"):
        require_folder(config_of(broken))
    with pytest.raises(ValueError, match="a GGUF file that exists, got '/absent.gguf'"):
        require_folder(config_of("/absent.gguf"))
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"an absolute path, .* is a file here"):
        require_folder(config_of("broken.gguf"))
    monkeypatch.setattr(gguf_files, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"without the package gguf.*pip install gguf"):
        require_folder(config_of(file))


def test_training_leaves_the_kept_weights_alone_and_the_export_names_the_file(
    file, tmp_path, cache
):
    write_jsonl(tmp_path / "t-train.jsonl", texts(20))
    data = tmp_path / "t-*.jsonl"
    settings = {"task": "causal-lm", "client_optimizer": "adamw", "lora_rank": 2}
    task = text_task(file, data, method="fedex-lora", **settings)
    kept = gguf_files.cache_folder(file, torch.float32) / "model.safetensors"
    before = kept.read_bytes()
    task.train(task.data.partition(0, 2), seed=0)
    module = next(iter(task.model.targeted_module_names))
    weight = task.model.get_submodule(f"base_model.model.{module}").base_layer.weight
    with torch.no_grad():
        weight.add_(1.0)
    assert kept.read_bytes() == before
    save(task.model, tmp_path / "adapter", {}, 1.0)
    readme = (tmp_path / "adapter" / "README.md").read_text()
    assert f"'{file.parent}',\n    gguf_file='tiny.gguf'" in readme
