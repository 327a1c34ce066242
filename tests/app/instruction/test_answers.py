"""Answers: generated, scored, and when they are due."""

import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flasc_flwr.app.cli import app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.answers import is_due
from flasc_flwr.app.reporting.run_folder import RunFolder
from flasc_flwr.app.tasks.instruction.generation import generate
from flasc_flwr.app.tasks.instruction.scoring import final_answer, grade
from flasc_flwr.app.tasks.task import load_task
from tests.app.chats import (
    chat_settings,
    chat_task,
    lines,
)
from tests.app.instruction.running import simulate


def test_the_command_measures_each_domain_as_the_run_did(result):
    load_task.cache_clear()
    done = CliRunner().invoke(app, ["evaluate", str(result.folder)])
    assert done.exit_code == 0, done.output
    printed = dict(line.split() for line in done.stdout.splitlines())
    last = result.history[-1]
    for name in ("loss", "accuracy_maths", "perplexity_talk"):
        assert float(printed[name]) == pytest.approx(last[name], rel=1e-4)


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
        # A pattern that fits everywhere also fits nothing, at the very end.
        ("It is 42", r"\d*", "42"),
        ("#### 7", "(.*)", "#### 7"),
        ("none", r"\d*", None),
        ("It is 7 or ?", r"(\d)|\?", "7"),
    ],
)
def test_final_answers(text, pattern, expected):
    assert final_answer(text, pattern) == expected


def test_answers_are_scored():
    assert grade("so #### 1,000", "#### 1000", "#### (.+)") == ("exact_match", 1.0)
    assert grade("none", "#### 1000", "#### (.+)") == ("exact_match", 0.0)
    assert grade("It is 41", "It is 42", r"\d*") == ("exact_match", 0.0)
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
