"""Text classification with any encoder or decoder of transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.backbones import add_adapter, load_backbone
from flasc_flwr.app.tasks.class_order import check_order_in_data
from flasc_flwr.app.tasks.data_errors import DataError, cell
from flasc_flwr.app.tasks.fit import check_fit, readable_tokens
from flasc_flwr.app.tasks.labels import class_count, number_labels
from flasc_flwr.app.tasks.padding import Padding
from flasc_flwr.app.tasks.probing import check_outputs
from flasc_flwr.app.tasks.tables import LABELS, USER, Preparation, Tables
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.tasks.text import tokenise
from flasc_flwr.app.tasks.tokenizer import load_tokenizer
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.heads import MeanPooledClassifier
from flasc_flwr.app.training.lora import Model
from flasc_flwr.core.printable import why

_EVALUATION_BATCH = 64


def load(config: RunConfig) -> Task:
    """Build the task: one class per text."""
    tokenizer = load_tokenizer(config)
    classes = class_count(config)
    backbone = _classifier(config, classes)
    check_fit(backbone, tokenizer, config)
    _pad_with(backbone, tokenizer.pad_token_id)
    readable = readable_tokens(backbone, tokenizer)
    padding = Padding(tokenizer, backbone, config)

    def prepare(rows: Dataset) -> Dataset:
        if config.head == "stock":
            check_order_in_data(backbone.config.id2label, rows, config)
        rows = number_labels(rows, config, classes, several=False)
        keep = [config.label_column, USER]
        tokens = tokenise(rows, tokenizer, config, keep, readable)
        if backbone.config.is_encoder_decoder and config.head == "stock":
            _require_same_ends(tokens, backbone.config.eos_token_id, config)
        if config.label_column == LABELS:
            return tokens
        return tokens.rename_column(config.label_column, LABELS)

    def collate(rows: Mapping[str, Any], training: bool) -> Batch:
        return padding(rows)

    columns = {
        "text-column": config.text_column,
        "label-column": config.label_column,
    }
    data = Tables(
        config, Preparation(columns=columns, prepare=prepare, collate=collate)
    )

    def check(model: Model) -> None:
        padding.settle(model, config)
        check_outputs(model, padding.probe("", "a b c"), config)

    model = add_adapter(backbone, config, check)
    return Task(config, model, data, evaluation_batch=_EVALUATION_BATCH)


def _classifier(config: RunConfig, classes: int) -> PreTrainedModel:
    if config.head == "stock":
        model = load_backbone("AutoModelForSequenceClassification", config, classes)
        # A checkpoint may have been trained for regression.
        model.config.problem_type = "single_label_classification"
        return model
    base = load_backbone("AutoModel", config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            return MeanPooledClassifier.around(base, classes)
        except Exception as error:
            raise ValueError(
                "model must return a vector for each token with head = 'mean', got "
                f"{config.model!r} ({base.config.model_type}): {why(error)}"
            ) from error


def _require_same_ends(tokens: Dataset, end: int, config: RunConfig) -> None:
    """Refuse rows that an encoder-decoder cannot read in one batch.

    It classifies by the last end token, and finds it by counting them.

    Raises
    ------
    DataError
        If a row has more or fewer end tokens than most.
    """
    counts = [ids.count(end) for ids in tokens["input_ids"]]
    usual = Counter(counts).most_common(1)[0][0] if counts else 0
    odd = next((row for row, count in enumerate(counts) if count != usual), None)
    if odd is not None:
        raise DataError(
            f"{cell(odd, 'text-column', config.text_column)} must have as many end "
            f"tokens as most rows, since model {config.model!r} counts them, got more "
            "or fewer: take the model's own end token out of the texts"
        )


def _pad_with(model: PreTrainedModel, padding: int) -> None:
    """Set the token after which a decoder classifies; it may be in a nested config."""
    model.config.pad_token_id = padding
    model.config.get_text_config().pad_token_id = padding
