"""Texts as tokens."""

from __future__ import annotations

import inspect
from logging import INFO, WARNING
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError, cell, is_empty
from flasc_flwr.flower.compat import log

_SOME = 1000
_ENOUGH_TEXTS = 10
"""So many different texts, of the first 1000, are never the same tokens by chance."""


def inputs_of(model: PreTrainedModel, tokenizer: Any) -> list[str]:
    """Return which of a tokenizer's outputs a model takes.

    Token types are left out where a model has no table of them: GPT-2 would look them
    up among its tokens.
    """
    inner = getattr(model, "encoder", model)
    parts = (model, inner) if model.base_model is inner else (model,)
    accepted = {name for m in parts for name in inspect.signature(m.forward).parameters}
    if not getattr(model.config.get_text_config(), "type_vocab_size", 0) and not any(
        name.endswith("seg_embed") for name, _ in model.named_parameters()
    ):
        accepted.discard("token_type_ids")
    return [name for name in tokenizer.model_input_names if name in accepted]


def tokens_of(tokenizer: Any, texts: list[str], length: int) -> dict[str, list[Any]]:
    """Return the tokens of texts, at most `length` and at least one of each."""
    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1}
    tokens = dict(tokenizer(texts, truncation=True, max_length=length))
    for name, lists in tokens.items():
        # GPT-2's tokenizer returns no token for an empty text; models need one.
        tokens[name] = [row or [fill.get(name, 0)] for row in lists]
    return tokens


def tokenise(
    rows: Dataset,
    tokenizer: Any,
    config: RunConfig,
    keep: list[str],
    embeddings: int | None = None,
) -> Dataset:
    """Return rows of tokens, with the columns `keep` added.

    The result is cached on disk, keyed by the data, the tokenizer and the settings, so
    that other processes can read it.

    Parameters
    ----------
    rows : Dataset
        Rows with a text.
    tokenizer : Any
        The model's tokenizer.
    config : RunConfig
        The column, and how many tokens are kept.
    keep : list[str]
        Further columns of the result.
    embeddings : int, optional
        How many tokens the model can read, if the tokenizer has more.

    Raises
    ------
    DataError
        If the text column does not hold text, a text has a token that the model cannot
        read, or many different texts all become the same tokens.
    """
    column, length = config.text_column, config.max_length
    kind = getattr(rows.features[column], "dtype", type(rows.features[column]).__name__)
    if kind not in ("string", "large_string", "null"):
        raise DataError(
            f"text-column must hold text, got {column!r}, which holds {kind}"
        )

    def to_tokens(batch: dict[str, list[Any]], first: list[int]) -> Any:
        texts = [text or "" for text in batch[column]]
        tokens = tokens_of(tokenizer, texts, length)
        for row, ids in enumerate(tokens["input_ids"] if embeddings else ()):
            if embeddings and max(ids) >= embeddings:
                where = cell(first[0] + row, "text-column", column)
                raise DataError(
                    f"{where} must have tokens "
                    f"below {embeddings}, which the model can read, got a larger one"
                )
        return tokens

    drop = [name for name in rows.column_names if name not in keep]
    # A fast tokenizer keeps the settings of its last call, which are part of the hash
    # that `datasets` takes of it. Call it once, so that the hash is always the same.
    to_tokens({column: [""]}, [0])
    tokens = rows.map(
        to_tokens,
        with_indices=True,
        batched=True,
        remove_columns=drop,
        desc="Tokenising",
    )
    if empty := sum(is_empty(text) for text in rows[column][:]):
        log(WARNING, "%d of %d texts are empty (%s)", empty, len(rows), column)
    lengths = pc.list_value_length(tokens.with_format("arrow")[:].column("input_ids"))
    if full := pc.sum(pc.greater_equal(lengths, length)).as_py():
        log(
            INFO,
            "%d of %d texts fill max-length (%d tokens); longer ones are cut",
            full,
            len(rows),
            length,
        )
    different = len(set(rows[column][:_SOME]))
    if (
        different >= _ENOUGH_TEXTS
        and len(set(map(tuple, tokens["input_ids"][:_SOME]))) == 1
    ):
        raise DataError(
            f"text-column {column!r} must hold texts that differ within max-length "
            f"({length}) tokens, got different texts that all become the same "
            "tokens: raise max-length, or give the model its own tokenizer"
        )
    return tokens
