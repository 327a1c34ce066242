"""Whether a tokenizer and a model belong together, and how long texts may be."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.core.printable import printable

_PADDED_TO = (8, 64, 128)
"""Sizes of embeddings are often rounded up to a multiple of one of these."""

_UNUSED = 0.04
"""Largest fraction of embeddings that no token uses: more in no usual model."""

_FEW = 8
"""So many may always be unused."""

_POSITIONS = re.compile(r"(^|[._])(positions?(_embeddings?)?|wpe)$")
_NOT_OF_TEXT = re.compile(r"vision|visual|image|audio|entity|relative|token_type")


def check_fit(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> None:
    """Check that a model has what its tokenizer gives, and reads ``max-length`` tokens.

    Raises
    ------
    ValueError
        If a token has no embedding, if many embeddings have no token, if the model
        takes another token for padding, or if it cannot read as many tokens.
    """
    _check_vocabulary(model, tokenizer, config)
    _check_padding(model, tokenizer, config)
    _check_length(model, tokenizer, config)


def embedding_count(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has embeddings for; None if it is not a table."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    weight = getattr(table, "weight", None)
    if not isinstance(table, nn.Module) or weight is None or weight.ndim != 2:
        return None
    return int(weight.shape[0])


def readable_tokens(model: PreTrainedModel, tokenizer: Any) -> int | None:
    """Return how many tokens a model can read if the tokenizer has more; else None."""
    count = embedding_count(model)
    return count if count and max(tokenizer.get_vocab().values()) >= count else None


def _check_vocabulary(
    model: PreTrainedModel, tokenizer: Any, config: RunConfig
) -> None:
    count = embedding_count(model)
    if count is None:
        return
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    size = max(vocabulary.values()) + 1
    outside = {token for token, number in vocabulary.items() if number >= count}
    # Tokens of other inputs, such as Gemma's <image_soft_token>, are in no text.
    special = {
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
    }
    if broken := sorted((outside - special) | (outside & _always_used(tokenizer))):
        raise ValueError(
            "model must have an embedding for every token of its tokenizer, got "
            f"{config.model!r} with {count} embeddings and {size} tokens "
            f"({printable(repr(broken[0]), 40)} has none): use the tokenizer it was "
            "trained with, or resize_token_embeddings and save it again"
        )
    unused = count - size
    padded = any(count % multiple == 0 and unused < multiple for multiple in _PADDED_TO)
    if unused > max(_FEW, _UNUSED * count) and not padded:
        raise ValueError(
            "model must have the tokenizer that it was trained with, got "
            f"{config.model!r} with {count} embeddings and {size} tokens"
        )


def _always_used(tokenizer: Any) -> set[str]:
    """Return the tokens that a tokenizer adds to any text, and those of padding."""
    added = tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])
    return {*added, tokenizer.pad_token, tokenizer.unk_token}


def _check_padding(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> None:
    """Models like RoBERTa count positions from the padding token in their config."""
    for _, table in _position_tables(model):
        if table.padding_idx not in (None, tokenizer.pad_token_id):
            raise ValueError(
                f"model must have padding token {table.padding_idx}, from which it "
                f"counts positions, got {config.model!r} with a tokenizer that pads "
                f"with {tokenizer.pad_token_id}"
            )


def _check_length(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> None:
    limits = [tokenizer.model_max_length, positions(model)]
    most = min((limit for limit in limits if limit and limit > 0), default=None)
    if most is not None and config.max_length > most:
        raise ValueError(
            f"max-length must be at most {most} with model {config.model!r}, "
            f"got {config.max_length}"
        )
    # A chat template writes such tokens itself.
    around = tokenizer.num_special_tokens_to_add()
    if config.task != "instruction" and config.max_length <= around:
        raise ValueError(
            f"max-length must be above {around} with model {config.model!r}, whose "
            "tokenizer adds so many tokens to each text, and truncates nothing below "
            f"that, got {config.max_length}"
        )


def positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model can read; None if it has no limit.

    RoBERTa's table of 514 positions has room for 512 tokens: the first two are those of
    padding. XLNet has a limit of -1, which means none.
    """
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "max_encoder_position_embeddings")
    limits = [getattr(config, name, None) for name in names]
    limits += [
        table.num_embeddings
        - (0 if table.padding_idx is None else table.padding_idx + 1)
        for _, table in _position_tables(model)
    ]
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known, default=None)


def _position_tables(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Return the learned tables of absolute positions of texts, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "num_embeddings")
        and hasattr(module, "padding_idx")
        and "Sinusoid" not in type(module).__name__
        and _POSITIONS.search(name)
        and not _NOT_OF_TEXT.search(name)
    ]
