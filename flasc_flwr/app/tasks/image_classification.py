"""Image classification with one class or several classes per image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import interpolate, pad

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.backbones import add_adapter, load_backbone
from flasc_flwr.app.tasks.class_order import check_order_in_data
from flasc_flwr.app.tasks.data_errors import cell
from flasc_flwr.app.tasks.image_inputs import InputShape, image_inputs
from flasc_flwr.app.tasks.images import pixels_of, stored_images
from flasc_flwr.app.tasks.labels import class_count, number_labels
from flasc_flwr.app.tasks.probing import check_outputs
from flasc_flwr.app.tasks.tables import LABELS, USER, Preparation, Tables
from flasc_flwr.app.tasks.task import Task
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.score import multi_label, single_label

_ROW = "__row__"
"""Column of row numbers, for errors."""
_EVALUATION_BATCH = 64


def load(config: RunConfig) -> Task:
    """Build the task; with ``multi-label``, each row has a list of classes."""
    count = class_count(config)
    backbone = load_backbone("AutoModelForImageClassification", config, count)
    inputs = image_inputs(backbone, config)
    shape = inputs.shape

    def prepare(rows: Dataset) -> Dataset:
        check_order_in_data(backbone.config.id2label, rows, config)
        rows = number_labels(rows, config, count, several=config.multi_label)
        keep = {config.image_column, config.label_column, USER}
        rows = rows.remove_columns([c for c in rows.column_names if c not in keep])
        rows = stored_images(rows, config.image_column)
        rows = rows.add_column(_ROW, list(range(len(rows))))
        return rows.rename_columns(
            {
                old: new
                for old, new in (
                    (config.image_column, "image"),
                    (config.label_column, LABELS),
                )
                if old != new
            }
        )

    def collate(rows: Mapping[str, Any], training: bool) -> Batch:
        stored = zip(rows["image"], rows[_ROW], strict=True)
        column = config.image_column
        images = torch.cat(
            [
                _pixels(image, shape, cell(row, "image-column", column))
                for image, row in stored
            ]
        )
        if training and config.augment:
            images = _augmented(images)
        return {
            "pixel_values": inputs.of(images),
            LABELS: _targets(rows[LABELS], count),
        }

    columns = {
        "image-column": config.image_column,
        "label-column": config.label_column,
    }
    data = Tables(
        config, Preparation(columns=columns, prepare=prepare, collate=collate)
    )
    backbone.config.problem_type = (
        "multi_label_classification"
        if config.multi_label
        else "single_label_classification"
    )
    score = multi_label if config.multi_label else single_label
    blank = torch.zeros(1, shape.channels, shape.size, shape.size)
    probe = {
        "pixel_values": blank,
        LABELS: _targets([[0] if config.multi_label else 0], count),
    }
    model = add_adapter(
        backbone, config, lambda model: check_outputs(model, probe, config)
    )
    return Task(config, model, data, score, _EVALUATION_BATCH)


def _pixels(image: Any, shape: InputShape, where: str) -> torch.Tensor:
    """Return an image as float32 of shape (1, channels, size, size), in [0, 1]."""
    array = torch.from_numpy(pixels_of(image, shape.channels, where))
    scaled = array.permute(2, 0, 1).unsqueeze(0)
    size = (shape.size, shape.size)
    if scaled.shape[-2:] == size:
        return scaled
    return interpolate(
        scaled, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """Flip half of the images, and shift all by up to an eighth of their size."""
    flips = torch.rand(len(images)) < 0.5
    images = torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)
    size = images.shape[-1]
    margin = size // 8
    padded = pad(images, [margin] * 4, mode="reflect")
    x, y = torch.randint(0, 2 * margin + 1, (2,)).tolist()
    return padded[..., y : y + size, x : x + size]


def _targets(labels: list[Any], count: int) -> torch.Tensor:
    """Return classes (n,), or for several classes per image 0s and 1s (n, count)."""
    if not isinstance(labels[0], list):
        return torch.tensor(labels)
    targets = torch.zeros(len(labels), count)
    for row, several in enumerate(labels):
        targets[row, several] = 1
    return targets
