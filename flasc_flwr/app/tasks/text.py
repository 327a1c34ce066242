"""Texts as tokens."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.sources import from_hub, model_path


def load_tokenizer(config: RunConfig) -> Any:
    """Load the model's tokenizer; without a padding token, it pads with its end token.

    FLASC's code does the same for GPT-2.

    Raises
    ------
    ValueError
        If it cannot be loaded, or has neither token.
    """
    path = model_path(config.model)
    tokenizer = from_hub(
        "model", config.model, lambda: AutoTokenizer.from_pretrained(path)
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            "model must have a tokenizer with a padding or an end token, got "
            f"{config.model!r}"
        )
    # Padding on the left would shift the positions of the text in models like GPT-2.
    tokenizer.padding_side = "right"
    return tokenizer


def check_length(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> None:
    """Check that the model can read ``max-length`` tokens.

    Raises
    ------
    ValueError
        If it cannot.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length, *([positions] if positions else [])]
    if config.max_length > min(limits):
        raise ValueError(
            f"max-length must be at most {min(limits)} with model {config.model!r}, "
            f"got {config.max_length}"
        )


def tokenise(
    rows: Dataset, tokenizer: Any, config: RunConfig, keep: list[str]
) -> Dataset:
    """Return rows of tokens, with the columns `keep` added.

    The result is cached on disk, keyed by the data, the tokenizer and the settings, so
    that other processes can read it.

    Raises
    ------
    DataError
        If the text column does not hold text.
    """
    column, length = config.text_column, config.max_length
    kind = getattr(rows.features[column], "dtype", type(rows.features[column]).__name__)
    if kind not in ("string", "large_string", "null"):
        raise DataError(
            f"text-column must hold text, got {column!r}, which holds {kind}"
        )

    fill = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1}

    def to_tokens(batch: dict[str, list[Any]]) -> Any:
        texts = [text or "" for text in batch[column]]
        tokens = tokenizer(texts, truncation=True, max_length=length)
        for name, lists in tokens.items():
            # GPT-2's tokenizer returns no token for an empty text; models need one.
            tokens[name] = [row or [fill.get(name, 0)] for row in lists]
        return tokens

    drop = [name for name in rows.column_names if name not in keep]
    # A fast tokenizer keeps the settings of its last call, which are part of the hash
    # that `datasets` takes of it. Call it once, so that the hash is always the same.
    to_tokens({column: [""]})
    return rows.map(to_tokens, batched=True, remove_columns=drop, desc="Tokenising")
