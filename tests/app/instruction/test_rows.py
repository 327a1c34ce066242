"""Rows of conversations: their shapes, and what is left out."""

import json

import pytest

from flasc_flwr.app.tasks.data_errors import DataError
from tests.app.instruction.decoding import SECRET


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "flasc_flwr.app.tasks.instruction.rows.log",
        lambda _, text, *values: lines.append(text % values),
    )
    return lines


WHOLE = (
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHello! How are "
    "you?<|im_end|>\n<|im_start|>assistant\nI am fine.<|im_end|>"
)
LEARNT = "I am fine.<|im_end|>"
PROMPT, RESPONSE = "Hello! How are you?", "I am fine."
OPENAI = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": RESPONSE},
]
SHAREGPT = [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": RESPONSE}]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"prompt": PROMPT, "response": RESPONSE, "id": 1}, {}),
        ({"instruction": PROMPT, "output": RESPONSE}, {}),
        ({"instruction": PROMPT, "input": "", "output": RESPONSE}, {}),
        ({"messages": OPENAI}, {}),
        ({"conversations": SHAREGPT, "id": "x"}, {}),
        ({"messages": [*OPENAI, {"role": "user", "content": "Why?"}]}, {}),
        (
            {"question": PROMPT, "answer": RESPONSE, "prompt": "", "response": ""},
            {"prompt_column": "question", "response_column": "answer"},
        ),
        ({"chat": SHAREGPT, "messages": []}, {"messages_column": "chat"}),
    ],
    ids=lambda value: "-".join(value),
)
def test_all_shapes_of_a_row_are_the_same_conversation(read, row, settings, kind):
    if kind == "csv":
        # Conversations are JSON text there.
        row = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
    assert read([row], kind, **settings) == [(WHOLE, LEARNT)]


def test_an_input_is_a_part_of_the_prompt(read):
    row = {"instruction": "Add", "input": "1, 2", "output": "3"}
    ((text, learnt),) = read([row])
    assert "<|im_start|>user\nAdd\n\n1, 2<|im_end|>" in text
    assert learnt == "3<|im_end|>"


def test_contents_in_parts_and_further_roles(read):
    content = [{"type": "text", "text": "Hello! "}, {"type": "text", "text": "You?"}]
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": content},
            {"role": "assistant", "content": "I am fine."},
        ]
    }
    ((text, learnt),) = read([row])
    assert "Be brief." in text and "user\nHello! You?<|im_end|>" in text
    assert "You are helpful." not in text and learnt == LEARNT


def test_rows_that_cannot_be_used_are_counted(read, said):
    good = {"prompt": PROMPT, "response": RESPONSE}
    rows = [
        good,
        good | {"response": " "},
        good | {"response": None},
        good | {"prompt": ""},
        good | {"prompt": "Hello! " * 90, "response": "Fine. " * 90},
    ]
    assert len(read(rows)) == 2
    assert said == [
        "Left out 3 of 5 rows: 2 without a response, 1 with an empty prompt",
        "Of 2 rows, 1 lost a part of their prompt and 1 a part of their response, "
        "since max-length is 128 tokens",
    ]


def test_conversations_that_cannot_be_used_are_counted(read, said):
    rows = [
        OPENAI,
        [],
        None,
        OPENAI[:1],
        OPENAI[1:],
        [OPENAI[0], {"role": "assistant", "content": ""}],
    ]
    assert len(read([{"messages": row} for row in rows])) == 1
    assert said == [
        "Left out 5 of 6 rows: 4 without a response, 1 with an empty prompt"
    ]


def test_rows_without_room_for_a_response_are_counted(read, said):
    """The template has a system message of its own where there is none."""
    brief = [{"role": "system", "content": "x"}, *OPENAI]
    rows = [{"messages": brief}, {"messages": OPENAI}]
    assert len(read(rows, max_length=22)) == 1
    assert said[0] == "Left out 1 of 2 rows: 1 with no response within max-length"
    with pytest.raises(DataError, match="2, of which 2 with no response within max"):
        read(rows, max_length=10)


def test_rows_that_the_template_refuses_are_counted(read, said):
    refuses = "{% for m in messages %}{% if 'x' in m.content %}{{ raise_exception("
    refuses += "'no x: ' + m.content) }}{% endif %}{{ m.content }}\n{% endfor %}"
    good = {"prompt": PROMPT, "response": RESPONSE}
    rows = [good, good | {"prompt": SECRET + "x"}]
    assert len(read(rows, chat_template=refuses)) == 1
    assert said == ["Left out 1 of 2 rows: 1 refused by the chat template"]
    with pytest.raises(DataError, match="1, of which 1 refused by the chat") as error:
        read(rows[1:], chat_template=refuses)
    assert SECRET not in str(error.value)
    assert "no x" in error.value.__notes__[0]
