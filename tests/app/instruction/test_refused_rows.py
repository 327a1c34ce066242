"""Rows and keys that are refused: errors without values."""

import pytest

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from tests.app.chats import (
    chat_task,
)
from tests.app.instruction.decoding import SECRET, decoded
from tests.app.tiny import settings_of

PROMPT, RESPONSE = "Hello! How are you?", "I am fine."


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
