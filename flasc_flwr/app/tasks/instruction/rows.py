"""Rows of conversations, prepared once: their tokens, and what was left out."""

from __future__ import annotations

from collections import Counter
from functools import partial
from logging import WARNING
from typing import Any

import numpy as np
from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError, cell, is_empty, kind_of
from flasc_flwr.app.tasks.formats.cells import text_of
from flasc_flwr.app.tasks.instruction.chat_template import ChatTemplate, RefusedError
from flasc_flwr.app.tasks.instruction.chat_tokens import ChatTokens, chat_tokens
from flasc_flwr.app.tasks.instruction.conversations import (
    Columns,
    Usable,
    conversation,
    find_columns,
)
from flasc_flwr.app.tasks.tables import DOMAIN, USER
from flasc_flwr.app.training.score import IGNORED
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log

TOKENS, TARGETS = "input_ids", "targets"
_USABLE, _CUT_PROMPT, _CUT_RESPONSE = "__usable__", "__cut_prompt__", "__cut_response__"

_WHY = {
    Usable.NO_RESPONSE: "without a response",
    Usable.EMPTY_PROMPT: "with an empty prompt",
    Usable.REFUSED: "refused by the chat template",
    Usable.NO_ROOM: "with no response within max-length",
}
_LONGEST_DOMAIN = 40
_NOTHING = ChatTokens([], [], 0, False, False)


def prepare(
    rows: Dataset, chat: ChatTemplate, config: RunConfig, embeddings: int | None = None
) -> Dataset:
    """Return the tokens of conversations, and which of them are of a response.

    The result is cached on disk, keyed by the data, the tokenizer and the settings.

    Parameters
    ----------
    rows : Dataset
        Rows with conversations, in any of the shapes of :func:`find_columns`.
    chat : ChatTemplate
        The template.
    config : RunConfig
        The columns, and how many tokens are kept.
    embeddings : int, optional
        How many tokens the model can read, if the tokenizer has more.

    Raises
    ------
    DataError
        If the columns do not fit, a cell is not a conversation, or no row is usable.
    """
    columns = find_columns(rows, config)
    domain = config.domain_column if config.domain_column in rows.column_names else ""
    keep = [USER] if USER in rows.column_names else []
    to_tokens = partial(
        _to_tokens, chat=chat, columns=columns, length=config.max_length, domain=domain
    )
    # A fast tokenizer keeps the settings of its last call, which are part of the hash
    # that `datasets` takes of it. Call it once, so that the hash is always the same.
    chat.tokenizer("", add_special_tokens=False, return_offsets_mapping=True)
    tokens = rows.map(
        to_tokens,
        with_indices=True,
        batched=True,
        remove_columns=[name for name in rows.column_names if name not in keep],
        desc="Tokenising",
    )
    usable = np.array(tokens[_USABLE][:], np.int64)
    _say_left_out(usable, chat, rows, columns)
    kept = tokens.select(np.flatnonzero(usable == Usable.YES))
    _say_cut(kept, config)
    _check_readable(kept, embeddings)
    return kept.remove_columns([_USABLE, _CUT_PROMPT, _CUT_RESPONSE])


def _to_tokens(
    batch: dict[str, list[Any]],
    numbers: list[int],
    *,
    chat: ChatTemplate,
    columns: Columns,
    length: int,
    domain: str,
) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {
        name: [] for name in (TOKENS, TARGETS, _USABLE, _CUT_PROMPT, _CUT_RESPONSE)
    }
    for place, number in enumerate(numbers):
        row = {name: cells[place] for name, cells in batch.items()}
        tokens, usable = _tokens(row, number, chat, columns, length)
        made[TOKENS].append(tokens.ids)
        made[TARGETS].append(tokens.targets)
        made[_USABLE].append(int(usable))
        made[_CUT_PROMPT].append(tokens.cut_prompt)
        made[_CUT_RESPONSE].append(tokens.cut_response)
    if domain:
        made[DOMAIN] = [
            domain_of(value, number, domain)
            for value, number in zip(batch[domain], numbers, strict=True)
        ]
    return made


def _tokens(
    row: dict[str, Any], number: int, chat: ChatTemplate, columns: Columns, length: int
) -> tuple[ChatTokens, Usable]:
    messages, usable = conversation(row, columns, number)
    if usable != Usable.YES:
        return _NOTHING, usable
    try:
        tokens = chat_tokens(chat, messages, length)
    except RefusedError:
        return _NOTHING, Usable.REFUSED
    if all(target == IGNORED for target in tokens.targets):
        return _NOTHING, Usable.NO_ROOM
    return tokens, Usable.YES


def domain_of(value: Any, number: int, column: str) -> str:
    """Return the domain of a row as printable text; it becomes the name of a metric.

    Raises
    ------
    DataError
        If the cell is empty, or neither text nor a number.
    """
    plain = isinstance(value, str | int | float)
    if not plain or is_empty(value):
        raise DataError(
            f"{cell(number, 'domain-column', column)} must be text or a number, got "
            f"{kind_of(value)}"
        )
    return printable(text_of(value), _LONGEST_DOMAIN)


def _say_left_out(
    usable: Any, chat: ChatTemplate, rows: Dataset, columns: Columns
) -> None:
    counts = Counter(usable.tolist())
    left_out = len(usable) - counts[Usable.YES]
    if not left_out:
        return
    reasons = ", ".join(
        f"{counts[reason]} {words}" for reason, words in _WHY.items() if counts[reason]
    )
    if left_out == len(usable):
        refused = np.flatnonzero(usable == Usable.REFUSED)
        note = _refusal(chat, rows, columns, int(refused[0])) if len(refused) else ""
        raise DataError(
            f"the data must have usable rows, got {len(usable)}, of which {reasons}",
            note,
        )
    log(WARNING, "Left out %d of %d rows: %s", left_out, len(usable), reasons)


def _refusal(chat: ChatTemplate, rows: Dataset, columns: Columns, number: int) -> str:
    """Return what the template says of a row that it refuses, for the data's owner."""
    messages, _ = conversation(rows[number], columns, number)
    try:
        chat.rendered(messages)
    except RefusedError as error:
        return f"the chat template says: {error}"
    return ""


def _say_cut(rows: Dataset, config: RunConfig) -> None:
    prompts, responses = (sum(rows[name][:]) for name in (_CUT_PROMPT, _CUT_RESPONSE))
    if prompts or responses:
        log(
            WARNING,
            "Of %d rows, %d lost a part of their prompt and %d a part of their "
            "response, since max-length is %d tokens",
            len(rows),
            prompts,
            responses,
            config.max_length,
        )


def _check_readable(rows: Dataset, embeddings: int | None) -> None:
    if embeddings and any(max(ids) >= embeddings for ids in rows[TOKENS]):
        raise DataError(
            f"the data must have tokens below {embeddings}, which the model can read, "
            "got a larger one"
        )
