"""Test prompts that the model answers, and how good the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.instruction.chat_template import ChatTemplate, RefusedError
from flasc_flwr.app.tasks.instruction.chat_tokens import ends, prompt_tokens
from flasc_flwr.app.tasks.instruction.conversations import (
    Messages,
    Usable,
    conversation,
    find_columns,
)
from flasc_flwr.app.tasks.instruction.generation import generate, room_for_prompts
from flasc_flwr.app.tasks.instruction.rows import domain_of
from flasc_flwr.app.tasks.instruction.scoring import grade
from flasc_flwr.app.tasks.sources import load_rows
from flasc_flwr.app.training.lora import Model

_BATCH = 8
"""Prompts that are answered at once."""


@dataclass(frozen=True)
class Question:
    """One test prompt.

    Attributes
    ----------
    example : int
        The row of the test split.
    domain : str
        Its domain; empty if rows have none.
    messages : Messages
        The conversation up to the response.
    reference : str
        The response of the row.
    """

    example: int
    domain: str
    messages: Messages
    reference: str


class Answering:
    """Answers the same test prompts whenever it is called.

    Parameters
    ----------
    config : RunConfig
        Which prompts, how many, and how they are scored.
    chat : ChatTemplate
        The template.
    """

    def __init__(self, config: RunConfig, chat: ChatTemplate) -> None:
        self._config = config
        self._chat = chat

    def __call__(self, model: Model) -> list[dict[str, Any]]:
        """Return a row for each prompt: it, the reference, the answer and its score."""
        config, chat = self._config, self._chat
        room = room_for_prompts(model, config.generate_tokens)
        length = min(config.max_length, room or config.max_length)
        rows = []
        for part in _in_parts(self.questions, _BATCH):
            written = generate(
                model,
                [prompt_tokens(chat, one.messages, length) for one in part],
                config,
                new=config.generate_tokens,
                ends=ends(chat),
                pad=int(chat.tokenizer.pad_token_id),
            )
            for one, tokens in zip(part, written, strict=True):
                answer = chat.tokenizer.decode(tokens, skip_special_tokens=True)
                score = grade(answer, one.reference, config.answer_pattern)
                rows.append(
                    {
                        "example": one.example,
                        "domain": one.domain,
                        "prompt": _shown(one.messages),
                        "reference": one.reference,
                        "answer": answer,
                        "measure": score.measure,
                        "score": score.value,
                    }
                )
        return rows

    @cached_property
    def questions(self) -> list[Question]:
        """The prompts: usable rows in an order drawn with the seed, by domain."""
        config = self._config
        rows = load_rows(config.dataset, config.test_split, config.dataset_config)
        columns = find_columns(rows, config)
        column = config.domain_column
        domains = [
            domain_of(value, number, column)
            for number, value in enumerate(rows[column][:] if column else ())
        ] or [""] * len(rows)
        by_domain: dict[str, list[int]] = {name: [] for name in sorted({*domains})}
        for number in np.random.default_rng(config.seed).permutation(len(rows)):
            by_domain[domains[number]].append(int(number))
        each = -(-config.generate_examples // len(by_domain))
        chosen = []
        for domain, numbers in by_domain.items():
            found: list[Question] = []
            for number in numbers:
                if len(found) == each:
                    break
                messages, usable = conversation(rows[number], columns, number)
                if usable == Usable.YES and self._takes(messages):
                    reference = messages[-1]["content"]
                    found.append(Question(number, domain, messages[:-1], reference))
            chosen += found
        return chosen

    def _takes(self, messages: Messages) -> bool:
        try:
            self._chat.rendered(messages)
        except RefusedError:
            return False
        return True


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over answers."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["measure"], []).append(row["score"])
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _in_parts(questions: list[Question], size: int) -> list[list[Question]]:
    return [questions[n : n + size] for n in range(0, len(questions), size)]


def _shown(messages: Messages) -> str:
    """Return a conversation as plain text; of a single message, its content."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
