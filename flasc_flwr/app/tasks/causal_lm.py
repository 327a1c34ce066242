"""Causal language modelling: the next token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING
from typing import Any

from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.backbones import add_adapter, load_backbone
from flasc_flwr.app.tasks.fit import check_fit, readable_tokens
from flasc_flwr.app.tasks.probing import check_outputs, two_texts
from flasc_flwr.app.tasks.tables import LABELS, USER, Preparation, Tables
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.tasks.text import tokenise
from flasc_flwr.app.tasks.tokenizer import load_tokenizer
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.score import IGNORED, next_tokens
from flasc_flwr.flower.compat import log

# One text of 128 tokens has 26 MB of logits over GPT-2's vocabulary.
_EVALUATION_BATCH = 16


def load(config: RunConfig) -> Task:
    """Build the task; its accuracy is the fraction of next tokens predicted."""
    if config.max_length < 2:
        raise ValueError(
            "max-length must be >= 2 for task 'causal-lm', since the first token has "
            f"nothing to be predicted from, got {config.max_length}"
        )
    tokenizer = load_tokenizer(config)
    backbone = load_backbone("AutoModelForCausalLM", config)
    check_fit(backbone, tokenizer, config)
    backbone.config.pad_token_id = tokenizer.pad_token_id
    readable = readable_tokens(backbone, tokenizer)

    def prepare(rows: Dataset) -> Dataset:
        tokens = tokenise(rows, tokenizer, config, [USER], readable)
        # A text of one token has no next token.
        usable = tokens.filter(
            lambda batch: [len(t) > 1 for t in batch],
            batched=True,
            input_columns="input_ids",
        )
        if left_out := len(tokens) - len(usable):
            log(
                WARNING,
                "Left out %d of %d texts, which have fewer than two tokens",
                left_out,
                len(tokens),
            )
        return usable

    def collate(rows: Mapping[str, Any], training: bool) -> Batch:
        inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
        batch: Batch = dict(tokenizer.pad(inputs, return_tensors="pt"))
        # By the mask, not by the token: the padding token may be the end token, which
        # must be predicted.
        hidden = batch["attention_mask"] == 0
        return batch | {LABELS: batch["input_ids"].masked_fill(hidden, IGNORED)}

    columns = {"text-column": config.text_column}
    usable = "no text has two tokens or more, the least that has a next token"
    data = Tables(
        config,
        Preparation(columns=columns, prepare=prepare, collate=collate, usable=usable),
    )
    model = add_adapter(
        backbone,
        config,
        lambda model: check_outputs(model, two_texts(tokenizer), config),
    )
    return Task(config, model, data, next_tokens, _EVALUATION_BATCH)
