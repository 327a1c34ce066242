"""Settings of instruction tuning: columns, chat template, packing and answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flasc_flwr.core.ranges import Range, integer, switch, text
from flasc_flwr.core.settings import setting

_INSTRUCTION = "`instruction`"
_GENERATE = "`evaluate-generate`"


def pattern() -> Range:
    """Allow a regular expression, or no text for none."""

    def check(value: Any) -> str | None:
        try:
            re.compile(value)
        except (re.error, TypeError, RecursionError):
            return None
        return value if isinstance(value, str) else None

    return Range("'' or a regular expression", check)


@dataclass(frozen=True, kw_only=True)
class InstructionSettings:
    """Rows with prompts and responses, as the run config gives them."""

    prompt_column: str = setting(
        "",
        text(),
        'name of the column; "" finds prompt or instruction',
        used_by=_INSTRUCTION,
    )
    input_column: str = setting(
        "",
        text(),
        'column that is added to the prompt; "" finds input beside instruction',
        used_by=_INSTRUCTION,
    )
    response_column: str = setting(
        "",
        text(),
        'name of the column; "" finds response or output',
        used_by=_INSTRUCTION,
    )
    messages_column: str = setting(
        "",
        text(),
        'column with whole conversations; "" finds messages or conversations',
        used_by=_INSTRUCTION,
    )
    chat_template: str = setting(
        "",
        text(),
        'Jinja text, the absolute path of a file with it, "alpaca" or "chatml"; "" is '
        "the template of the model's tokenizer",
        used_by=_INSTRUCTION,
    )
    packing: bool = setting(
        False,
        switch(),
        "lay several rows of a batch end to end in one sequence, which saves padding "
        "and changes no result",
        used_by=_INSTRUCTION,
    )
    evaluate_generate: int = setting(
        0,
        integer(0),
        "rounds from one time that the model answers test prompts to the next; 0 is "
        "never, else also before the first and after the last",
        used_by=_INSTRUCTION,
        unit="rounds",
    )
    generate_examples: int = setting(
        12,
        integer(1),
        "test prompts that are answered, the same number of each domain",
        unit="prompts",
        used_by=_GENERATE,
    )
    generate_tokens: int = setting(
        128, integer(1), "longest answer", unit="tokens", used_by=_GENERATE
    )
    answer_pattern: str = setting(
        "",
        pattern(),
        'regular expression of the final answer, such as "#### (.+)"; responses that '
        "have one are scored by exact match, others by ROUGE-L",
        used_by=_GENERATE,
    )

    def require_instruction(self, task: str) -> None:
        """Check that the keys are for the task, and name one way to read a row.

        Raises
        ------
        ValueError
            If a setting is for instruction tuning and the task is another, or the keys
            name two ways, or half of one.
        """
        for key, value in (
            ("chat-template", self.chat_template),
            ("packing", self.packing),
            ("evaluate-generate", self.evaluate_generate),
            ("prompt-column", self.prompt_column),
            ("messages-column", self.messages_column),
        ):
            if value and task != "instruction":
                off = {str: "''", bool: "false", int: "0"}[type(value)]
                given = "true" if value is True else repr(value)
                raise ValueError(
                    f"{key} must be {off} with task {task!r}, since it is for task "
                    f"'instruction', got {given}"
                )
        if bool(self.prompt_column) != bool(self.response_column):
            given, missing = ("prompt-column", "response-column")
            if self.response_column:
                given, missing = missing, given
            raise ValueError(f"{missing} must name a column where {given} does, got ''")
        if self.input_column and not self.prompt_column:
            raise ValueError(
                "prompt-column must name a column where input-column does, got ''"
            )
        if self.messages_column and self.prompt_column:
            raise ValueError(
                "messages-column must be '' where prompt-column names a column, got "
                f"{self.messages_column!r}"
            )
