"""What is exported of a run, and where it is published."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.tasks.task import load_task
from tests.app.chat_tokenizers import CHATML
from tests.app.instruction.running import call


def logits_of(model, ids):
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids).logits.float().numpy()


@pytest.fixture(scope="module")
def trained(result):
    """Some tokens, and the logits of the run's own model for them."""
    from flasc_flwr.app.runs.saved_adapter import trained_task

    load_task.cache_clear()
    task = trained_task(result.folder, {})
    ids = torch.arange(5, 45).reshape(2, 20)
    return ids, logits_of(task.model, ids)


def test_the_adapter_gives_the_same_logits_without_flasc_flwr(root, result, trained):
    ids, expected = trained
    base = AutoModelForCausalLM.from_pretrained(root / "chat", dtype=torch.float32)
    untrained = logits_of(base, ids)
    model = PeftModel.from_pretrained(base, result.folder / "adapter")
    np.testing.assert_allclose(logits_of(model, ids), expected, atol=1e-5)
    assert np.abs(untrained - expected).max() > 1e-3


def test_the_merged_model_gives_the_same_logits_without_peft(result, trained, tmp_path):
    ids, expected = trained
    done = call("export", result.folder, "--merged", "--to", tmp_path / "m")
    assert done.exit_code == 0, done.output
    assert not list((tmp_path / "m").glob("adapter*"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    np.testing.assert_allclose(logits_of(model, ids), expected, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.chat_template == CHATML
    ended = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert sorted(ended) == ["</s>", "<|im_end|>"]
    assert "AutoModel" not in (tmp_path / "m/README.md").read_text()
    assert call("export", result.folder, "--merged").exit_code == 1


def test_input_of_a_chat_that_is_no_text_is_refused(result):
    load_task.cache_clear()
    words = ["chat", str(result.folder), "--tokens", "4"]
    done = CliRunner().invoke(app, words, input=b"\xff\n")
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "Error: the input must be text in utf-8, got other bytes" in done.stderr


def test_a_chat_names_the_option_that_is_too_large(result):
    """Its default may be, for a model that reads little."""
    done = call("chat", result.folder)
    assert done.exit_code == 1
    assert "Error: --tokens must be below the 256 tokens that the" in done.stderr


class Hub:
    """Takes the place of the hub's client, and keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self):
        return self

    def create_repo(self, name, **options):
        self.calls.append(("create_repo", name, options))
        return type("Url", (), {"repo_id": f"me/{name}"})()

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        files = {p.name: p.read_bytes() for p in folder_path.iterdir()}
        self.calls.append(("upload_folder", repo_id, files))


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    return hub


@pytest.mark.parametrize("merged", [False, True])
def test_a_published_model_says_where_it_comes_from(root, result, hub, merged):
    options = ["--merged"] if merged else []
    done = call("export", result.folder, "--push-to-hub", "my-chat", *options)
    assert done.exit_code == 0, (done.output, done.exception)
    (create, name, how), (upload, repo, files) = hub.calls
    assert (create, name, upload, repo) == (
        *("create_repo", "my-chat"),
        *("upload_folder", "me/my-chat"),
    )
    assert how == {"private": True, "exist_ok": True}
    assert ("model.safetensors" in files) == merged
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: ") and card.count("\n---\n") == 1
    summary = result.summary
    for words in (
        *("| data | q-*.jsonl |", "| method | dense |", "| rounds | 3 of 3 |"),
        *("| clients | 2 |", "federated-learning", "| base model | chat |"),
        f"| sent by clients | {summary['message_bytes_up'] / 1e6:,.2f} MB |",
        f"| test perplexity | {summary['perplexity']:.4g} |",
    ):
        assert words in card, words
    # Nothing that is uploaded says where files lie on this machine.
    for name, content in files.items():
        assert str(root).encode() not in content, name


def test_an_adapter_of_a_round_is_published_with_what_was_true_then(
    result, hub, tmp_path
):
    """Not with the accuracy, the rounds and the bytes of the run's end."""
    run = shutil.copytree(result.folder, tmp_path / "run")
    shutil.copytree(run / "adapter", run / "adapter-round-0001")
    done = call("export", run, "--push-to-hub", "my-chat", "--round", 1)
    assert done.exit_code == 0, (done.output, done.exception)
    card = hub.calls[-1][2]["README.md"].decode()
    rows = result.history[:2]
    for words in (
        "| rounds | 1 of 3 |",
        f"| test loss | {rows[1]['loss']:.4g} |",
        f"| sent by clients | {sum(r['message_bytes_up'] for r in rows) / 1e6:,.2f} MB",
    ):
        assert words in card, words
    assert "| ended |" not in card
    dense = sum(row["dense_float32_bytes"] for row in rows)
    sent = sum(r["message_bytes_down"] + r["message_bytes_up"] for r in rows)
    assert f"| less than dense float32 | {dense / sent:.1f} times |" in card


def test_a_card_does_not_say_where_a_failed_run_lay(result, hub, tmp_path):
    run = shutil.copytree(result.folder, tmp_path / "run")
    places = f"'{tmp_path}/my data_1.csv' and {tmp_path}/run, ~/x; 3/4 of all"
    ended = json.dumps({"ended": f"failed: no space left for {places}"})
    (run / "summary.json").write_text(ended)
    done = call("export", run, "--push-to-hub", "my-chat")
    assert done.exit_code == 0, (done.output, done.exception)
    card = hub.calls[-1][2]["README.md"].decode()
    left = "(a path) and (a path), (a path); 3/4 of all"
    assert f"| ended | failed: no space left for {left} |" in card


def test_a_hub_that_fails_is_an_error_in_one_line(result, monkeypatch):
    def fails(*_, **__):
        raise OSError("no\x1b[31m login\nhere")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fails)
    done = call("export", result.folder, "--push-to-hub", "x", "--public")
    assert done.exit_code == 1
    assert "--push-to-hub 'x' failed: OSError: no [31m login here" in done.stderr
    assert call("export", result.folder).exit_code == 1
    assert call("export", result.folder, "--public", "--to", "x").exit_code == 1
