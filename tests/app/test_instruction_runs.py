"""Runs of instruction tuning: answers, what is exported, chatting, and the report."""

import json
import re

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import client_app
from flasc_flwr.app.cli import app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.answers import is_due
from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.run_folder import RunFolder
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.app.reporting.side_by_side import side_by_side
from flasc_flwr.app.tasks.instruction.generation import generate
from flasc_flwr.app.tasks.instruction.scoring import final_answer, grade
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.chat_tokenizers import CHATML
from tests.app.chats import (
    chat_settings,
    chat_task,
    lines,
    save_chats,
)
from tests.app.test_apps import run
from tests.app.tiny import settings_of
from tests.cli.test_report import HOSTILE, Page

ROUNDS = 3


def simulate(out, **settings):
    config = settings_of(**settings)
    load_task.cache_clear()
    grid = LocalGrid(client_app.app, 2, run_config=config)
    return run(out, grid, **{k.replace("-", "_"): v for k, v in config.items()})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_chats(tmp_path_factory.mktemp("chats"))


@pytest.fixture(autouse=True)
def cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")


@pytest.fixture(scope="module")
def result(root, tmp_path_factory):
    """A short run that answers test prompts before, on the way and at the end."""
    out = tmp_path_factory.mktemp("runs")
    settings = chat_settings(
        root,
        domain_column="domain",
        evaluate_generate=2,
        generate_examples=4,
        generate_tokens=6,
        answer_pattern="#### (.+)",
        method="dense",
        num_server_rounds=ROUNDS,
        fraction_train=1.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")
        return simulate(out, **settings)


def test_the_command_measures_each_domain_as_the_run_did(result):
    load_task.cache_clear()
    done = CliRunner().invoke(app, ["evaluate", str(result.folder)])
    assert done.exit_code == 0, done.output
    printed = dict(line.split() for line in done.stdout.splitlines())
    last = result.history[-1]
    for name in ("loss", "accuracy_maths", "perplexity_talk"):
        assert float(printed[name]) == pytest.approx(last[name], rel=1e-4)


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


def test_a_run_measures_each_domain_and_answers_prompts(result):
    for row in result.history:
        for name in ("loss", "accuracy", "perplexity"):
            assert {name, f"{name}_maths", f"{name}_talk"} <= row.keys()
        assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"] and last["loss_talk"] < first["loss_talk"]
    for name in ("loss", "loss_maths", "perplexity_talk", "rouge_l", "exact_match"):
        assert result.summary[name] == last[name]
    answers = lines(result.folder / "answers.jsonl")
    assert [row["round"] for row in answers] == [0] * 4 + [2] * 4 + [3] * 4
    assert "rouge_l" not in result.history[1]
    per_round = [
        [(row["example"], row["prompt"]) for row in answers[n : n + 4]]
        for n in (0, 4, 8)
    ]
    assert per_round[0] == per_round[1] == per_round[2]
    assert [row["domain"] for row in answers[:4]] == ["maths"] * 2 + ["talk"] * 2
    for row in answers[:2]:
        assert re.fullmatch(r"What is \d+\+1\?", row["prompt"])
        assert "#### " in row["reference"] and row["measure"] == "exact_match"
    assert {row["measure"] for row in answers[2:4]} == {"rouge_l"}


def test_answers_are_those_of_the_most_likely_tokens(root):
    task = chat_task(root)
    prompts = [[1, 20, 21, 22], [1, 30, 31, 32, 33, 34, 35, 36], [1, 40]]

    def written():
        return generate(task.model, prompts, task.config, new=5, ends=[2], pad=3)

    together = written()
    for prompt, answer in zip(prompts, together, strict=True):
        ids = list(prompt)
        for _ in range(5):
            with torch.no_grad():
                logits = task.model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
        expected = ids[len(prompt) :]
        assert answer == expected[: expected.index(2) if 2 in expected else None]
    # Whatever the model's own generation config says, and if it has none.
    inner = task.model.get_base_model()
    inner.generation_config.repetition_penalty = 5.0
    assert (
        generate(task.model, prompts, task.config, new=5, ends=[2], pad=3) == together
    )
    inner.generation_config = None
    assert (
        generate(task.model, prompts, task.config, new=5, ends=[2], pad=3) == together
    )
    assert inner.generation_config is None
    (cut,) = generate(
        task.model, prompts[:1], task.config, new=5, ends=together[0][2:3], pad=3
    )
    assert cut == together[0][: together[0].index(together[0][2])]


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("It is 5.\n#### 1,234.", "#### (.+)", "1234"),
        ("#### 3\n#### 4", "#### (.+)", "4"),
        ("The answer is  YES ", r"answer is\s+(\w+)", "yes"),
        ("42 43", r"\d+", "43"),
        ("nothing", r"\d+", None),
        ("42", "", None),
    ],
)
def test_final_answers(text, pattern, expected):
    assert final_answer(text, pattern) == expected


def test_answers_are_scored():
    assert grade("so #### 1,000", "#### 1000", "#### (.+)") == ("exact_match", 1.0)
    assert grade("none", "#### 1000", "#### (.+)") == ("exact_match", 0.0)
    measure, value = grade("the cat sat", "the dog sat down", "#### (.+)")
    # Two of three words, two of four: F = 2 * 2/3 * 1/2 / (2/3 + 1/2).
    assert measure == "rouge_l" and value == pytest.approx(4 / 7)


def test_when_answers_are_due():
    def rounds(every, all_rounds, evaluated=range):
        last, found = None, []
        for now in evaluated(all_rounds + 1):
            if is_due(every, last, now, all_rounds):
                last = now
                found.append(now)
        return found

    assert rounds(0, 5) == []
    assert rounds(1, 3) == [0, 1, 2, 3]
    assert rounds(4, 10) == [0, 4, 8, 10]
    # Evaluated every third round only: the first evaluation after each fourth round.
    assert rounds(4, 12, lambda end: range(0, end, 3)) == [0, 6, 9, 12]


def test_an_early_end_has_answers_too(root, tmp_path):
    settings = chat_settings(
        root,
        evaluate_generate=5,
        generate_examples=1,
        generate_tokens=2,
        num_server_rounds=4,
        stop_megabytes=0.003,
        method="dense",
    )
    early = simulate(tmp_path, **settings)
    rounds = [row["round"] for row in lines(early.folder / "answers.jsonl")]
    last = early.history[-1]["round"]
    assert 0 < last < 4 and rounds == [0, last] and "rouge_l" in early.summary


def test_a_resumed_run_keeps_the_answers_before_its_checkpoint(tmp_path):
    folder = RunFolder(tmp_path, RunConfig())
    (tmp_path / "config.toml").write_text("")
    row = {"example": 1, "domain": "", "prompt": "p", "reference": "r", "answer": "a"}
    for number in (0, 4, 8):
        folder.add_answers(number, [row | {"measure": "rouge_l", "score": 0.5}])
    assert folder.answered == 8
    folder._rows = [{"round": 0}, {"round": 5}]
    folder._cut_back()
    assert folder.answered == 4


def test_the_adapter_gives_the_same_logits_without_flasc_flwr(root, result, trained):
    ids, expected = trained
    base = AutoModelForCausalLM.from_pretrained(root / "chat", dtype=torch.float32)
    untrained = logits_of(base, ids)
    model = PeftModel.from_pretrained(base, result.folder / "adapter")
    np.testing.assert_allclose(logits_of(model, ids), expected, atol=1e-5)
    assert np.abs(untrained - expected).max() > 1e-3


def call(*words, text=None):
    load_task.cache_clear()
    return CliRunner().invoke(app, [str(word) for word in words], input=text)


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


def test_talking_to_a_run(result):
    said = call(
        "chat",
        result.folder,
        "--tokens",
        5,
        text="Hello! I am 2.\n\nWhat is 3+1?\n/reset\nHello! I am 2.\n/help\n/quit\nx",
    )
    assert said.exit_code == 0, (said.output, said.exception)
    answers = said.stdout.split("\n")
    helps = [line for line in answers if line.startswith("/reset forgets")]
    assert len(helps) == 1
    spoken = said.stdout.partition("/reset forgets")[0].rstrip("\n")
    # The same question after /reset has the same answer as at first.
    from flasc_flwr.app.runs.talk import Talk

    load_task.cache_clear()
    talk = Talk(result.folder, {}, new=5)
    pieces = []
    first = talk.ask("Hello! I am 2.", pieces.append)
    assert "".join(pieces).strip() == first.strip()
    second = talk.ask("What is 3+1?", pieces.append)
    talk.forget()
    assert talk.ask("Hello! I am 2.", pieces.append) == first
    from flasc_flwr.core.printable import printable_lines

    expected = "\n".join(map(printable_lines, (first, second, first)))
    assert "".join(spoken.split()) == "".join(expected.split())


def test_only_a_run_of_the_task_can_be_talked_to(tmp_path):
    assert "is not a run folder" in call("chat", tmp_path).stderr


def test_no_escape_code_of_an_answer_reaches_the_terminal(capsys):
    from flasc_flwr.app.cli.chat import _show

    _show("\x1b[31mred\x07\n\u202etxt\tend")
    assert capsys.readouterr().out == " [31mred \n txt    end"


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


def test_a_hub_that_fails_is_an_error_in_one_line(result, monkeypatch):
    def fails(*_, **__):
        raise OSError("no\x1b[31m login\nhere")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fails)
    done = call("export", result.folder, "--push-to-hub", "x", "--public")
    assert done.exit_code == 1
    assert "--push-to-hub 'x' failed: OSError: no [31m login here" in done.stderr
    assert call("export", result.folder).exit_code == 1
    assert call("export", result.folder, "--public", "--to", "x").exit_code == 1


@pytest.fixture
def no_figures(monkeypatch):
    """Answers are tested here; drawing takes seconds."""
    monkeypatch.setattr("flasc_flwr.app.reporting.page.all_figures", lambda _: [])


@pytest.mark.usefixtures("no_figures")
def test_the_report_shows_answers_side_by_side(result, tmp_path):
    out = tmp_path / "page.html"
    write_report([read_run(result.folder)], out)
    page = Page(out.read_text())
    answers = lines(result.folder / "answers.jsonl")
    for words in ("Before: exact match", "Round 2: ROUGE-L", "Round 3: ROUGE-L"):
        assert words in page.text
    for row in answers:
        assert row["prompt"] in page.text and row["reference"] in page.text
    assert page.tags.count("section") == 4
    shown = side_by_side(read_run(result.folder))
    assert [row["round"] for row in shown["scores"]] == ["Before", "Round 2", "Round 3"]
    mean = np.mean([row["score"] for row in answers[2:4]])
    assert shown["scores"][0]["ROUGE-L"] == f"{mean:.3f}"


@pytest.mark.usefixtures("no_figures")
def test_no_answer_becomes_html(result, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.toml", "history.jsonl", "summary.json"):
        (folder / name).write_bytes((result.folder / name).read_bytes())
    out = tmp_path / "page.html"
    hostile = HOSTILE + "</div></details>\x1b[31m\u202e\x00"
    rows = [
        row | dict.fromkeys(("prompt", "reference", "answer", "domain"), text)
        for text, row in (
            (text, row)
            for text in ("harmless", hostile)
            for row in lines(result.folder / "answers.jsonl")[:1]
        )
    ]
    pages = []
    for row in rows:
        (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
        write_report([read_run(folder)], out)
        pages.append(Page(out.read_text()))
    clean, page = pages
    assert page.tags == clean.tags and page.attributes == clean.attributes
    assert page.text.count(HOSTILE) == 3
    assert not {"\x1b", "\u202e", "\x00"} & set(out.read_text())
