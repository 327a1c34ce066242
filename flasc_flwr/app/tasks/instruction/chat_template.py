"""Chat templates: a conversation as one text, and where its messages lie in it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.instruction.conversations import ASSISTANT, USER, Messages
from flasc_flwr.core.printable import printable, why

_ALPACA = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'user' -%}
{%- if loop.first -%}
{{ 'Below is an instruction that describes a task. Write a response that \
appropriately completes the request.\\n\\n' }}
{%- endif -%}
{{ '### Instruction:\\n' + message.content + '\\n\\n' }}
{%- else -%}
{{ '### Response:\\n' + message.content + ('' if loop.last else '\\n\\n') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}
"""
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
TEMPLATES = {"alpaca": _ALPACA, "chatml": _CHATML}
"""Templates by name."""

_MARKS = re.compile(r"Xq(\d+)flascContent\1qX")


class RefusedError(ValueError):
    """A template refuses a conversation, or changes its texts."""


class Span(NamedTuple):
    """Where the content of message `message` lies: characters `start` to `end`."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of a run, with the tokenizer that it is for.

    transformers renders it in Jinja's sandbox, which reaches no files and no attributes
    of Python's own.

    Attributes
    ----------
    tokenizer : Any
        The model's tokenizer.
    text : str
        The template.
    """

    tokenizer: Any
    text: str

    @classmethod
    def of(cls, tokenizer: Any, config: RunConfig) -> ChatTemplate:
        """Return the run's template.

        Raises
        ------
        ValueError
            If there is none, it cannot be read, or it does not show both messages of a
            short conversation as they are.
        """
        chat = cls(tokenizer, _source(tokenizer, config))
        probe = [
            {"role": USER, "content": "What is it?"},
            {"role": ASSISTANT, "content": "It is this."},
        ]
        origin = "chat-template" if config.chat_template else "the model's own template"
        try:
            _, spans = chat.rendered(probe)
        except RefusedError as error:
            raise ValueError(
                f"chat-template must be a template that shows messages, got {origin}, "
                f"which fails: {why(error)}"
            ) from error
        if {span.message for span in spans} != {0, 1}:
            raise ValueError(
                f"chat-template must show the messages, got {origin}, which leaves "
                "some out"
            )
        return chat

    def rendered(self, messages: Messages) -> tuple[str, list[Span]]:
        """Return a conversation as text, and where the contents lie in it.

        What the template writes around the contents is found once for each order of
        roles, with marks in place of the contents. The text must be exactly that with
        the contents in place of the marks; a template may strip spaces from them.

        Raises
        ------
        RefusedError
            If the template refuses the conversation, or its text is another one.
        """
        text = self._render(messages)
        first, *rest = _around(self, tuple(m["role"] for m in messages))
        spans, at = [], len(first)
        same = text.startswith(first)
        for index, after in zip(rest[::2], rest[1::2], strict=True):
            content = messages[int(index)]["content"]
            forms = (content, content.strip(), content.lstrip(), content.rstrip())
            form = next((f for f in forms if text.startswith(f + after, at)), None)
            if form is None:
                same = False
                break
            spans.append(Span(int(index), at, at + len(form)))
            at += len(form) + len(after)
        if not same or at != len(text):
            raise RefusedError("it changes the texts of messages")
        shown = [span.message for span in spans]
        answers = [i for i, m in enumerate(messages) if m["role"] == ASSISTANT]
        if [i for i in shown if i in answers] != answers:
            raise RefusedError("it does not show every response once")
        return text, spans

    def _render(self, messages: Messages) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, chat_template=self.text
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise RefusedError(printable(error)) from error


@lru_cache(maxsize=256)
def _around(chat: ChatTemplate, roles: Sequence[str]) -> list[str]:
    """Return what a template writes, split at the contents, with their numbers."""
    marked = [
        {"role": role, "content": f"Xq{n}flascContent{n}qX"}
        for n, role in enumerate(roles)
    ]
    return _MARKS.split(chat._render(marked))


def _source(tokenizer: Any, config: RunConfig) -> str:
    given = config.chat_template
    if not given:
        own = tokenizer.chat_template
        own = own.get("default") if isinstance(own, dict) else own
        if not own:
            raise ValueError(
                "chat-template must be set with a model whose tokenizer has none, such "
                f"as chat-template = 'alpaca', got '' and model {config.model!r}"
            )
        return str(own)
    if given in TEMPLATES:
        return TEMPLATES[given]
    if "{{" in given or "{%" in given:
        return given
    path = Path(os.path.expandvars(given)).expanduser()
    if not path.is_absolute() or not path.is_file():
        raise ValueError(
            "chat-template must be Jinja text, the absolute path of a file with it, or "
            f"one of {', '.join(map(repr, TEMPLATES))}, got {printable(given)!r}"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"chat-template must be UTF-8 text, got {given!r} with other bytes"
        ) from error
