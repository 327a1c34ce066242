"""Text classification with any encoder or decoder of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.backbones import add_adapter, load_backbone
from flasc_flwr.app.tasks.labels import class_count, number_labels
from flasc_flwr.app.tasks.tables import LABELS, USER, Preparation, Tables
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.tasks.text import check_length, load_tokenizer, tokenise
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.heads import MeanPooledClassifier

_EVALUATION_BATCH = 64


def load(config: RunConfig) -> Task:
    """Build the task: one class per text."""
    tokenizer = load_tokenizer(config)
    classes = class_count(config)

    def prepare(rows: Dataset) -> Dataset:
        rows = number_labels(rows, config, classes, several=False)
        tokens = tokenise(rows, tokenizer, config, [config.label_column, USER])
        if config.label_column == LABELS:
            return tokens
        return tokens.rename_column(config.label_column, LABELS)

    def collate(rows: Mapping[str, Any], training: bool) -> Batch:
        inputs = {n: rows[n] for n in tokenizer.model_input_names if n in rows}
        batch = dict(tokenizer.pad(inputs, return_tensors="pt"))
        return batch | {LABELS: torch.tensor(rows[LABELS])}

    columns = {
        "text-column": config.text_column,
        "label-column": config.label_column,
    }
    data = Tables(
        config, Preparation(columns=columns, prepare=prepare, collate=collate)
    )
    backbone = _classifier(config, classes, tokenizer.pad_token_id)
    check_length(backbone, tokenizer, config)
    return Task(
        config,
        add_adapter(backbone, config),
        data,
        evaluation_batch=_EVALUATION_BATCH,
    )


def _classifier(config: RunConfig, classes: int, padding: int) -> PreTrainedModel:
    if config.head == "stock":
        model = load_backbone(
            "AutoModelForSequenceClassification", config, num_labels=classes
        )
        model.config.pad_token_id = padding
        return model
    encoder = load_backbone("AutoModel", config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        encoder.config.num_labels = classes
        return MeanPooledClassifier(encoder.config, encoder)
