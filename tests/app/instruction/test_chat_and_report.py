"""Talking to a run, and its answers in the report."""

import json

import numpy as np
import pytest

from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.app.reporting.side_by_side import side_by_side
from flasc_flwr.app.tasks.task import load_task
from tests.app.chats import (
    lines,
)
from tests.app.instruction.running import call
from tests.cli.test_report import HOSTILE, Page


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
