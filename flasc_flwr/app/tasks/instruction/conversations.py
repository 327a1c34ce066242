"""Rows as conversations, whatever columns a table has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError, cell, is_empty, kind_of
from flasc_flwr.app.tasks.sources import require_columns

Messages = list[dict[str, str]]
"""A conversation: each message has a ``role`` and a ``content``."""

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
DEVELOPER = "developer"
"""What newer models call the role `SYSTEM`."""

_ROLES = {
    **{name: USER for name in ("user", "human")},
    **{name: ASSISTANT for name in ("assistant", "gpt", "model", "chatgpt")},
    **{name: name for name in (SYSTEM, DEVELOPER, "tool")},
    **{name: "tool" for name in ("function", "observation")},
}
"""Roles as OpenAI and as ShareGPT name them, and what chat templates call them."""

_TEXT = ("string", "large_string", "null")

_SHAPES = (("prompt", "response"), ("instruction", "output"))
_CONVERSATIONS = ("messages", "conversations")


class Usable(IntEnum):
    """Whether a row can be trained on, or why it is left out."""

    YES = 0
    NO_RESPONSE = 1
    EMPTY_PROMPT = 2
    REFUSED = 3
    NO_ROOM = 4


class Columns(NamedTuple):
    """The columns of a row: one of conversations, or a prompt and a response.

    Attributes
    ----------
    messages : str
        Column of conversations; empty if there is none.
    prompt, response : str
        Columns of texts, where there is no column of conversations.
    more : str
        Column of texts that are added to the prompt; empty if there is none.
    """

    messages: str = ""
    prompt: str = ""
    more: str = ""
    response: str = ""


def find_columns(rows: Dataset, config: RunConfig) -> Columns:
    """Return the columns that the run config names, or the only ones that fit.

    Raises
    ------
    DataError
        If one is missing or does not hold text, or if none or several ways to read the
        rows fit. The columns of the data are a note.
    """
    found = _named(rows, config) or _the_only(rows.column_names)
    for key, column in (
        ("prompt-column", found.prompt),
        ("input-column", found.more),
        ("response-column", found.response),
    ):
        if column and (kind := _kind(rows, column)) not in _TEXT:
            raise DataError(f"{key} must hold text, got {column!r}, which holds {kind}")
    return found


def _named(rows: Dataset, config: RunConfig) -> Columns | None:
    keys = {
        "messages-column": config.messages_column,
        "prompt-column": config.prompt_column,
        "input-column": config.input_column,
        "response-column": config.response_column,
    }
    require_columns(rows, {key: column for key, column in keys.items() if column})
    return Columns(*keys.values()) if any(keys.values()) else None


def _the_only(names: Sequence[str]) -> Columns:
    fit = [Columns(messages=name) for name in _CONVERSATIONS if name in names]
    for prompt, response in _SHAPES:
        if prompt in names and response in names:
            more = "input" if prompt == "instruction" and "input" in names else ""
            fit.append(Columns(prompt=prompt, more=more, response=response))
    if len(fit) == 1:
        return fit[0]
    set_keys = "set prompt-column and response-column, or messages-column"
    note = f"the columns are {', '.join(names)}"
    if not fit:
        raise DataError(
            "the data must have columns 'prompt' and 'response', 'instruction' and "
            "'output', 'messages' or 'conversations', got none of them: "
            f"{set_keys}",
            note,
        )
    ways = " and ".join(repr(way.messages or way.prompt) for way in fit)
    raise DataError(
        f"the data must have one kind of prompts, got columns {ways}: {set_keys}", note
    )


def _kind(rows: Dataset, column: str) -> str:
    feature = rows.features[column]
    return str(getattr(feature, "dtype", type(feature).__name__))


def conversation(
    row: Mapping[str, Any], columns: Columns, number: int
) -> tuple[Messages, Usable]:
    """Return the conversation of a row up to its last response, if it is usable.

    Parameters
    ----------
    row : Mapping[str, Any]
        The cells of the row.
    columns : Columns
        Where it is.
    number : int
        The row's number, for errors.

    Returns
    -------
    tuple[Messages, Usable]
        No messages where the row is not usable: an empty prompt, no response, or an
        empty one.

    Raises
    ------
    DataError
        If a cell is not a conversation; it holds no value.
    """
    if columns.messages:
        messages = _messages(row[columns.messages], columns.messages, number)
    else:
        parts = [row[columns.prompt], row[columns.more] if columns.more else ""]
        prompt = "\n\n".join(part for part in parts if not is_empty(part))
        messages = [
            {"role": USER, "content": prompt},
            {"role": ASSISTANT, "content": row[columns.response] or ""},
        ]
    while messages and messages[-1]["role"] != ASSISTANT:
        messages.pop()
    answers = [m["content"] for m in messages if m["role"] == ASSISTANT]
    if not answers or any(map(is_empty, answers)):
        return [], Usable.NO_RESPONSE
    prompts = [m["content"] for m in messages if m["role"] == USER]
    if not prompts or any(map(is_empty, prompts)):
        return [], Usable.EMPTY_PROMPT
    return messages, Usable.YES


def _messages(value: Any, column: str, number: int) -> Messages:
    where = cell(number, "messages-column", column)
    if isinstance(value, str | bytes) and value.strip():
        # A JSON file's column of cells of several types is JSON text, too.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{where} must be JSON, got other text") from None
    if is_empty(value):
        return []
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list of messages, got {kind_of(value)}")
    return [_message(one, where) for one in value]


def _message(one: Any, where: str) -> dict[str, str]:
    """Return a message of OpenAI's shape or ShareGPT's."""
    if not isinstance(one, dict):
        raise DataError(f"{where} must be a list of messages, got {kind_of(one)} in it")
    role = one.get("role") or one.get("from")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise DataError(
            f"{where} must have messages with a role (or from) of {', '.join(_ROLES)}, "
            f"got {'another' if isinstance(role, str) else kind_of(role)}"
        )
    content = one.get("content")
    content = one.get("value") if content is None else content
    if isinstance(content, list):
        content = _joined(content)
    if content is not None and not isinstance(content, str):
        raise DataError(
            f"{where} must have messages with text as content (or value), got "
            f"{kind_of(content)}"
        )
    return {"role": _ROLES[role.lower()], "content": content or ""}


def _joined(parts: list[Any]) -> Any:
    """Return the text of a content in parts; the parts if one is not text."""
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    known = [text for text in texts if isinstance(text, str)]
    return "".join(known) if len(known) == len(parts) else parts
