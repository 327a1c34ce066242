"""Rows of conversations: their shapes, what is left out, and errors without values."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from tests.app.chats import (
    chat_settings,
    chat_task,
    questions,
    save_chats,
)
from tests.app.tiny import settings_of, write_jsonl

SECRET = "a secret value"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_chats(tmp_path_factory.mktemp("chats"))


@pytest.fixture(autouse=True)
def cache(root, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "flasc_flwr.app.tasks.instruction.rows.log",
        lambda _, text, *values: lines.append(text % values),
    )
    return lines


@pytest.fixture(scope="module")
def read(root, tmp_path_factory):
    """Return a function that reads rows as a device does, and decodes them."""
    tasks = {}

    def of(rows, kind="jsonl", **settings):
        key = json.dumps(settings)
        if key not in tasks:
            tasks[key] = chat_task(root, **settings)
        path = tmp_path_factory.mktemp("own") / f"rows.{kind}"
        if kind == "jsonl":
            write_jsonl(path, rows)
        elif kind == "csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            pd.DataFrame(rows).to_parquet(path)
        examples = tasks[key].data.local_examples(str(path))
        return [decoded(root, examples, n) for n in range(len(examples))]

    return of


def decoded(root, examples, number):
    """Return the whole text of an example, and the part that is learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "chat")
    batch = examples.batch(torch.tensor([number]))
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    return tokenizer.decode(ids), tokenizer.decode(labels[labels != -100])


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


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        ({"text": SECRET}, {}, "must have columns 'prompt' and 'response', .* none"),
        (
            {"prompt": SECRET, "response": SECRET, "messages": SECRET},
            {},
            "one kind of prompts, got columns 'messages' and 'prompt': set prompt-col",
        ),
        ({"prompt": [SECRET], "response": SECRET}, {}, "prompt-column must hold text"),
        ({"prompt": SECRET, "response": 5}, {}, "'response', which holds int64"),
        (
            {"prompt": SECRET, "response": SECRET},
            {"prompt_column": "question", "response_column": "response"},
            "prompt-column must be one of the columns of the data, which has 2",
        ),
        (
            {"messages": SECRET},
            {},
            "row 0 .* of messages-column 'messages' must be JSON",
        ),
        ({"messages": 5}, {}, "must be a list of messages, got an integer"),
        ({"messages": [SECRET]}, {}, "must be a list of messages, got text in it"),
        (
            {"messages": [{"role": SECRET, "content": SECRET}]},
            {},
            "with a role .* got another",
        ),
        (
            {"messages": [{"role": "user", "content": {"a": SECRET}}]},
            {},
            "with text as content .*, got an object",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, {}, "got an integer"),
    ],
    ids=str,
)
def test_what_is_not_a_conversation_is_named_without_its_values(
    read, row, settings, expected
):
    with pytest.raises(DataError, match=expected) as error:
        read([row], **settings)
    assert SECRET not in str(error.value)


def test_a_model_without_a_template_needs_one(root):
    with pytest.raises(ValueError, match="chat-template must be set with a model who"):
        chat_task(root, model=str(root / "plain"))
    task = chat_task(root, model=str(root / "plain"), chat_template="alpaca")
    text, learnt = decoded(root, task.data.test, 1)
    assert text.startswith("Below is an instruction") and "### Response:\n" in text
    assert learnt == "It is 42.\n#### 42</s>"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"task": "causal-lm", "packing": True}, "packing must be false with task"),
        ({"task": "causal-lm", "chat_template": "x"}, "chat-template must be '' with"),
        ({"task": "causal-lm", "domain_column": "x"}, "domain-column must be '' with"),
        ({"task": "digits", "evaluate_generate": 1}, "evaluate-generate must be 0"),
        ({"prompt_column": "x"}, "response-column must name a column where prompt-c"),
        ({"response_column": "x"}, "prompt-column must name a column where response"),
        ({"input_column": "x"}, "prompt-column must name a column where input-column"),
        (
            {"prompt_column": "x", "response_column": "y", "messages_column": "z"},
            "messages-column must be '' where prompt-column names",
        ),
        ({"answer_pattern": "("}, "answer-pattern must be '' or a regular expression"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        RunConfig.parse(settings_of(**({"task": "instruction"} | settings)))


def test_partitioners_split_by_domain(root):
    by_domain = {"domain_column": "domain", "partitioner": "pathological"}
    task = chat_task(root, **by_domain, classes_per_partition=1)
    domains = [
        set(part.table["__domain__"][i] for i in part.rows.tolist())
        for part in (task.data.partition(n, 4) for n in range(4))
    ]
    assert all(len(names) == 1 for names in domains)
    assert set().union(*domains) == {"maths", "talk"}
    task = chat_task(root, domain_column="domain", partitioner="dirichlet")
    assert len(task.data.partition(0, 2)) > 0
    config = RunConfig.parse(
        settings_of(**chat_settings(root, partitioner="dirichlet"))
    )
    with pytest.raises(ValueError, match="must be iid or natural-id with task 'instr"):
        config.require_partitioner()
    with pytest.raises(ValueError, match="domain-column must be one of the columns"):
        chat_task(root, domain_column="topic").data.partition(0, 2)


def test_each_user_can_be_a_client(root):
    task = chat_task(root, partitioner="natural-id", user_column="domain")
    texts = [decoded(root, task.data.partition(n, 2), 0)[0] for n in range(2)]
    assert sorted("What is" in text for text in texts) == [False, True]


def test_packing_changes_no_result(root):
    plain, packed = (chat_task(root, packing=p) for p in (False, True))
    chosen = torch.arange(8)
    one = plain.data.partition(0, 3).batch(chosen)
    other = packed.data.partition(0, 3).batch(chosen)
    assert other["input_ids"].shape[0] < one["input_ids"].shape[0] == 8
    assert (one["labels"] != -100).sum() == (other["labels"] != -100).sum()
    assert "attention_mask" not in other
    results = [
        (task.train(task.data.partition(0, 3), seed=0), task.evaluate(task.data.test))
        for task in (plain, packed)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
        assert theirs.steps == ours.steps and theirs.accuracy == ours.accuracy
    from flasc_flwr.app.training.lora import read_adapter

    adapters = [read_adapter(task.model) for task in (plain, packed)]
    for name, array in adapters[0].items():
        np.testing.assert_allclose(adapters[1][name], array, atol=1e-4)


def test_packing_is_refused_where_rows_would_see_each_other(root, tmp_path):
    from tests.app.architectures import save_architecture

    for kind in ("mamba", "opt"):
        (tmp_path / kind).mkdir()
        save_architecture(tmp_path / kind, kind)
        with pytest.raises(ValueError, match="packing must be false with a model"):
            chat_task(
                root,
                model=str(tmp_path / kind),
                chat_template="alpaca",
                packing=True,
                max_length=30,
            )


def test_domains_are_names_of_metrics(root, tmp_path):
    rows = questions(6)
    for row, name in zip(rows, ["c+", "c#", "c+", 5, 5.0, "数学"], strict=True):
        row["domain"] = name
    for part in ("train", "test"):
        write_jsonl(tmp_path / f"q-{part}.jsonl", rows)
    dataset = str(tmp_path / "q-*.jsonl")
    task = chat_task(root, domain_column="domain", dataset=dataset)
    names = {n for n in task.measure(task.data.test) if n.startswith("loss_")}
    assert names == {"loss_c_", "loss_c__", "loss_5", "loss_数学"}
    rows[2]["domain"] = None
    write_jsonl(tmp_path / "q-test.jsonl", rows)
    with pytest.raises(DataError, match="row 2 .* of domain-column 'domain' must be"):
        _ = task.data.__class__(task.config, task.data._how).test
    rows = questions(60)
    for number, row in enumerate(rows):
        row["domain"] = number
    write_jsonl(tmp_path / "q-test.jsonl", rows)
    task = chat_task(root, domain_column="domain", dataset=dataset)
    with pytest.raises(DataError, match="at most 50 different values, got 60"):
        task.measure(task.data.test)


def test_losses_are_of_responses_by_domain(root):
    task = chat_task(root, domain_column="domain")
    measured = task.measure(task.data.test)
    sums = {}
    rows = questions(12, start=40)
    for number, row in enumerate(rows):
        batch = task.data.test.batch(torch.tensor([number]))
        with torch.no_grad():
            logits = task.model(input_ids=batch["input_ids"]).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        shown = labels != -100
        losses = torch.nn.functional.cross_entropy(
            logits[shown], labels[shown], reduction="none"
        )
        right = (logits.argmax(-1) == labels)[shown]
        for name in ("", f"_{row['domain']}"):
            loss, hits, count = sums.get(name, (0.0, 0, 0))
            sums[name] = (
                loss + float(losses.sum()),
                hits + int(right.sum()),
                count + len(losses),
            )
    assert set(sums) == {"", "_maths", "_talk"} and len(measured) == 9
    for name, (loss, hits, count) in sums.items():
        assert measured[f"loss{name}"] == pytest.approx(loss / count, rel=1e-4)
        assert measured[f"accuracy{name}"] == pytest.approx(hits / count)
        assert measured[f"perplexity{name}"] == pytest.approx(
            np.exp(loss / count), rel=1e-4
        )
