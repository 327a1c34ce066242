"""Texts as tokens."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import from_hub, model_path


def tokenizer_of(config: RunConfig) -> Any:
    """Return the model's tokenizer, which pads with its end token if with no other.

    GPT-2 has no padding token; FLASC's code pads it so, too.
    """
    path = model_path(config.model)
    tokenizer = from_hub(
        "model", config.model, lambda: AutoTokenizer.from_pretrained(path)
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            f"model is {config.model!r}, whose tokenizer has neither a padding nor an "
            "end token: give it one, and save it beside the model"
        )
    # To the left, padding would move the positions of the text in GPT-2 and its like.
    tokenizer.padding_side = "right"
    return tokenizer


def check_length(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> None:
    """Check that the model has as many positions as ``max-length`` asks for.

    Raises
    ------
    ValueError
        If it has fewer.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length, *([positions] if positions else [])]
    if config.max_length > min(limits):
        raise ValueError(
            f"max-length is {config.max_length}, but {config.model!r} reads at most "
            f"{min(limits)} tokens: allowed is a number up to that"
        )


def tokenised(
    rows: Dataset, tokenizer: Any, config: RunConfig, keep: list[str]
) -> Dataset:
    """Return rows as tokens, with some of their columns kept.

    The result is cached on disk by the data, the tokenizer and the settings: the next
    process that asks for the same reads it.
    """
    column, length = config.text_column, config.max_length
    kind = getattr(rows.features[column], "dtype", type(rows.features[column]).__name__)
    if kind not in ("string", "large_string", "null"):
        raise ValueError(
            f"text-column is {column!r}, whose values are {kind}: allowed is text"
        )

    filling = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1}

    def tokenise(batch: dict[str, list[Any]]) -> Any:
        texts = [text or "" for text in batch[column]]
        tokens = tokenizer(texts, truncation=True, max_length=length)
        for name, lists in tokens.items():
            # GPT-2 makes nothing of an empty text, and no model takes nothing.
            tokens[name] = [row or [filling.get(name, 0)] for row in lists]
        return tokens

    drop = [name for name in rows.column_names if name not in keep]
    # A fast tokenizer remembers how it was last called, and datasets hashes it whole:
    # called so at once, it has the same hash the next time.
    tokenise({column: [""]})
    return rows.map(tokenise, batched=True, remove_columns=drop, desc="Tokenising")
