"""Conversations as tokens, and which of them the model learns to write."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.app.tasks.instruction.chat_template import (
    ChatTemplate,
    RefusedError,
    Span,
)
from flasc_flwr.app.tasks.instruction.conversations import (
    ASSISTANT,
    DEVELOPER,
    SYSTEM,
    USER,
    Messages,
)
from flasc_flwr.app.training.score import IGNORED

_PROBE = "I"
"""A response that takes the place of the one that a model is to write."""


class ChatTokens(NamedTuple):
    """The tokens of a conversation.

    Attributes
    ----------
    ids : list[int]
        Its tokens, up to the end of its last response.
    targets : list[int]
        The same where they are part of a response, else `IGNORED`.
    start : int
        Index of the first token of the last response.
    cut_prompt, cut_response : bool
        Whether a part of the prompt, or of the last response, was cut off.
    """

    ids: list[int]
    targets: list[int]
    start: int
    cut_prompt: bool
    cut_response: bool


def chat_tokens(chat: ChatTemplate, messages: Messages, length: int) -> ChatTokens:
    """Return at most `length` tokens of a conversation that ends in a response.

    The text is tokenised as a whole. A token belongs to a response if a character of it
    does; so does the token that ends the response, which the model must learn to write.
    Where the template writes none after the last response, the tokenizer's end token is
    added.

    What is too long loses its oldest turns first, then the middle of what users and the
    system say, and only then the end of the response.

    Raises
    ------
    RefusedError
        If the template refuses the conversation.
    """
    whole = _whole(chat, messages)
    shorter = False
    while len(whole.ids) > length and (rest := _without_oldest_turn(messages)):
        messages, shorter = rest, True
        whole = _whole(chat, messages)
    kept = np.arange(len(whole.ids))
    excess = len(kept) - length
    if excess > 0:
        cuttable = np.flatnonzero(whole.prompt)
        count = min(excess, len(cuttable))
        first = (len(cuttable) - count + 1) // 2
        kept = np.delete(kept, cuttable[first : first + count])
        shorter = shorter or count > 0
    cut_response = len(kept) > length
    kept = kept[:length]
    targets = np.where(whole.response, whole.ids, IGNORED)[kept]
    if len(targets):
        # Nothing comes before the first token; in a packed row, another text would.
        targets[0] = IGNORED
    return ChatTokens(
        whole.ids[kept].tolist(),
        targets.tolist(),
        int(np.searchsorted(kept, whole.start)),
        shorter,
        cut_response,
    )


def prompt_tokens(chat: ChatTemplate, messages: Messages, length: int) -> list[int]:
    """Return the tokens after which a model writes its response.

    They are those that come before a response in training, whatever the template does
    for a generation prompt.

    Parameters
    ----------
    chat : ChatTemplate
        The template.
    messages : Messages
        A conversation that ends before a response.
    length : int
        The most tokens.
    """
    probe = [*messages, {"role": ASSISTANT, "content": _PROBE}]
    # The probe and what ends it take a few tokens that are not kept.
    whole = _whole(chat, probe)
    more = len(whole.ids) - whole.start
    tokens = chat_tokens(chat, probe, length + more)
    return tokens.ids[: tokens.start]


def ends(chat: ChatTemplate) -> list[int]:
    """Return the tokens that end a response: the template's and the tokenizer's."""
    probe = [
        {"role": USER, "content": _PROBE},
        {"role": ASSISTANT, "content": _PROBE},
    ]
    found = {chat.tokenizer.eos_token_id, _whole(chat, probe).end}
    return sorted(token for token in found if token is not None)


class _Whole(NamedTuple):
    """All tokens of a conversation, up to the end of its last response.

    Attributes
    ----------
    ids : NDArray[np.int64], shape (n,)
        The tokens.
    response, prompt : NDArray[np.bool_], shape (n,)
        Whether each is of a response, or of what others say.
    start : int
        Index of the first token of the last response.
    end : int or None
        The token that ends the last response.
    """

    ids: NDArray[np.int64]
    response: NDArray[np.bool_]
    prompt: NDArray[np.bool_]
    start: int
    end: int | None


def _whole(chat: ChatTemplate, messages: Messages) -> _Whole:
    text, spans = chat.rendered(messages)
    tokenizer = chat.tokenizer
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(tokens["input_ids"], np.int64)
    offsets = np.array(tokens["offset_mapping"], np.int64).reshape(-1, 2)
    answers = [s for s in spans if messages[s.message]["role"] == ASSISTANT]
    others = [s for s in spans if messages[s.message]["role"] != ASSISTANT]
    endings = [_ending(tokenizer, text, span) for span in answers]
    ended = endings[-1] > answers[-1].end
    answers = [
        span._replace(end=end) for span, end in zip(answers, endings, strict=True)
    ]
    added = np.isin(ids, _added_tokens(tokenizer))
    response = _within(offsets, answers, added)
    prompt = _inside(offsets, others) & ~response
    in_last = np.flatnonzero(_within(offsets, answers[-1:], added))
    if not len(in_last):
        raise RefusedError("a response has no tokens")
    start, size = int(in_last[0]), int(in_last[-1]) + 1
    ids, response, prompt = ids[:size], response[:size], prompt[:size]
    end = int(ids[-1]) if ended else None
    if end is None and tokenizer.eos_token_id is not None:
        end = int(tokenizer.eos_token_id)
        ids = np.append(ids, end)
        response, prompt = np.append(response, True), np.append(prompt, False)
    return _Whole(ids, response, prompt, start, end)


def _within(
    offsets: NDArray[np.int64], spans: list[Span], added: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which tokens have a character in one of the spans.

    Tokenizers of bytes leave spaces out of offsets: a token of spaces has an empty one,
    which lies at its end. Added tokens may take in the spaces around them: one that
    begins before a span belongs to what is before it.
    """
    start, end = offsets[:, 0], offsets[:, 1]
    first = np.minimum(start, end - 1)
    found = np.zeros(len(offsets), bool)
    for span in spans:
        before = added & (start < span.start)
        found |= (end > span.start) & (first < span.end) & ~before
    return found


def _inside(offsets: NDArray[np.int64], spans: list[Span]) -> NDArray[np.bool_]:
    """Return which tokens have characters of one span and no others."""
    start, end = offsets[:, 0], offsets[:, 1]
    first = np.minimum(start, end - 1)
    found = np.zeros(len(offsets), bool)
    for span in spans:
        found |= (first >= span.start) & (end <= span.end)
    return found


def _ending(tokenizer: Any, text: str, span: Span) -> int:
    """Return where a response ends with its end token, if it is followed by one."""
    found = _end_tokens(tokenizer).match(text, span.end)
    return found.end() if found else span.end


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: Any) -> list[int]:
    return sorted(tokenizer.added_tokens_decoder)


@lru_cache(maxsize=8)
def _end_tokens(tokenizer: Any) -> re.Pattern[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    tokens = sorted({t for t in added if t.strip()}, key=len, reverse=True)
    # Without any, a pattern that fits nowhere.
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, tokens)) or '(?!)'})")


def _without_oldest_turn(messages: Messages) -> Messages | None:
    """Return a conversation without its first response and what it replies to."""
    first = next(i for i, m in enumerate(messages) if m["role"] == ASSISTANT)
    rest = messages[first + 1 :]
    if not any(m["role"] == ASSISTANT for m in rest):
        return None
    system = [m for m in messages[:first] if m["role"] in (SYSTEM, DEVELOPER)]
    return [*system, *rest]
