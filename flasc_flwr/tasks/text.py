"""Texts as tokens."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from flasc_flwr.config import RunConfig
from flasc_flwr.tasks.sources import from_hub, model_path


def tokenizer_of(config: RunConfig) -> Any:
    """Return the model's tokenizer, which pads with its end token if with no other.

    GPT-2 has no padding token; FLASC's code pads it so, too.
    """
    path = model_path(config.model)
    tokenizer = from_hub(
        "tokenizer",
        "model",
        config.model,
        lambda: AutoTokenizer.from_pretrained(path),
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenised(
    rows: Dataset, tokenizer: Any, config: RunConfig, keep: list[str]
) -> Dataset:
    """Return rows as tokens, with some of their columns kept.

    The result is cached on disk by the data, the tokenizer and the settings: the next
    process that asks for the same reads it.
    """
    column, length = config.text_column, config.max_length

    def tokenise(batch: dict[str, list[Any]]) -> Any:
        texts = [text or "" for text in batch[column]]
        return tokenizer(texts, truncation=True, max_length=length)

    drop = [name for name in rows.column_names if name not in keep]
    # A fast tokenizer remembers how it was last called, and datasets hashes it whole:
    # called so at once, it has the same hash the next time.
    tokenise({column: [""]})
    return rows.map(tokenise, batched=True, remove_columns=drop, desc="Tokenising")
