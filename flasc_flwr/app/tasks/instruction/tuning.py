"""Instruction tuning: responses to prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.backbones import add_adapter, load_backbone
from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.fit import check_fit, readable_tokens
from flasc_flwr.app.tasks.instruction.answering import Answering
from flasc_flwr.app.tasks.instruction.batches import packed, padded, require_apart
from flasc_flwr.app.tasks.instruction.chat_template import ChatTemplate
from flasc_flwr.app.tasks.instruction.rows import prepare
from flasc_flwr.app.tasks.instruction.scoring import require_scorer
from flasc_flwr.app.tasks.probing import check_outputs, two_texts
from flasc_flwr.app.tasks.tables import DOMAIN, Preparation, Tables
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.tasks.tokenizer import load_tokenizer
from flasc_flwr.app.training.examples import Batch, Examples
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.score import next_tokens

# One conversation of 512 tokens has 100 MB of logits over 49,152 tokens.
_EVALUATION_BATCH = 8

_MOST_DOMAINS = 50
"""So many domains have their own metrics."""


def load(config: RunConfig) -> Task:
    """Build the task; its accuracy is the fraction of response tokens predicted."""
    if config.max_length < 2:
        raise ValueError(
            "max-length must be >= 2 for task 'instruction', since the first token has "
            f"nothing to be predicted from, got {config.max_length}"
        )
    tokenizer = load_tokenizer(config)
    if config.evaluate_generate:
        require_scorer()
    if not tokenizer.is_fast:
        raise ValueError(
            "model must have a fast tokenizer (tokenizer.json) for task 'instruction', "
            f"which finds responses by characters, got {config.model!r}"
        )
    chat = ChatTemplate.of(tokenizer, config)
    backbone = load_backbone("AutoModelForCausalLM", config)
    check_fit(backbone, tokenizer, config)
    backbone.config.pad_token_id = tokenizer.pad_token_id
    # No cache of keys and values where nothing is generated: it takes memory, and with
    # one, transformers does not see where a packed row begins.
    backbone.config.get_text_config().use_cache = False
    readable = readable_tokens(backbone, tokenizer)
    pad = int(tokenizer.pad_token_id)

    def prepared(rows: Dataset) -> Dataset:
        return prepare(rows, chat, config, readable)

    def collate(rows: Mapping[str, Any], training: bool) -> Batch:
        if config.packing:
            return packed(rows, pad, config.max_length)
        return padded(rows, pad)

    data = Tables(config, Preparation(columns={}, prepare=prepared, collate=collate))
    model = add_adapter(backbone, config, partial(_check, tokenizer, config))
    return Task(
        config,
        model,
        data,
        next_tokens,
        _EVALUATION_BATCH,
        parts=_by_domain if config.domain_column else None,
        answering=Answering(config, chat) if config.evaluate_generate else None,
    )


def _by_domain(examples: Examples) -> dict[str, Examples]:
    """Split examples by their domain.

    Raises
    ------
    DataError
        If there are more domains than a row of the history can have.
    """
    table = examples.table
    if DOMAIN not in table.column_names:
        raise DataError("domain-column must be one of the columns of the test data")
    domains = np.array(table[DOMAIN][:])[examples.rows]
    names = sorted({*domains.tolist()})
    if len(names) > _MOST_DOMAINS:
        raise DataError(
            f"domain-column must have at most {_MOST_DOMAINS} different values, got "
            f"{len(names)}"
        )
    parts: dict[str, Examples] = {}
    for name in names:
        # Trackers refuse other characters in the name of a metric.
        shown = re.sub(r"[^\w .:/-]", "_", name)
        while shown in parts:
            shown += "_"
        parts[shown] = examples.select(np.flatnonzero(domains == name))
    return parts


def _check(tokenizer: Any, config: RunConfig, model: Model) -> None:
    check_outputs(model, two_texts(tokenizer), config)
    if config.packing:
        require_apart(model, int(tokenizer.pad_token_id), config)
