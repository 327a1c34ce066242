"""Image classification, of one class an image or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import interpolate, pad
from transformers import AutoImageProcessor

from flasc_flwr.config import RunConfig
from flasc_flwr.tasks.backbones import pretrained, with_adapter
from flasc_flwr.tasks.sources import model_path
from flasc_flwr.tasks.tables import (
    LABELS,
    Preparation,
    Tables,
    check_labels,
    class_count,
)
from flasc_flwr.tasks.task import Task
from flasc_flwr.training.examples import Batch
from flasc_flwr.training.score import classes, many_classes


def load(config: RunConfig) -> Task:
    """Build the task; with ``multi-label`` rows have lists of classes."""
    count = class_count(config)
    backbone = pretrained(
        "AutoModelForImageClassification",
        config,
        num_labels=count,
        ignore_mismatched_sizes=True,
    )
    size = int(backbone.config.image_size)
    mean, std = _normalisation(config)

    def prepare(rows: Dataset) -> Dataset:
        check_labels(rows, config.label_column, count, several=config.multi_label)
        keep = {config.image_column, config.label_column, config.user_column}
        rows = rows.remove_columns([c for c in rows.column_names if c not in keep])
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
        images = torch.cat([_pixels(image, size) for image in rows["image"]])
        if training and config.augment:
            images = _augmented(images)
        return {
            "pixel_values": (images - mean) / std,
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
    score = many_classes if config.multi_label else classes
    return Task(config, with_adapter(backbone, config), data, score)


def _normalisation(config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and deviation that the model was trained with, or a half."""
    try:
        path = model_path(config.model)
        processor = AutoImageProcessor.from_pretrained(path)  # type: ignore[no-untyped-call]
        values = processor.image_mean, processor.image_std
    except (OSError, ValueError, AttributeError):
        values = [0.5] * 3, [0.5] * 3
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in values)
    return mean, std


def _pixels(image: Any, size: int) -> torch.Tensor:
    """Return an image as float32 of shape (1, 3, size, size), in [0, 1]."""
    array = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    scaled = array.unsqueeze(0).to(torch.float32) / 255
    if scaled.shape[-2:] == (size, size):
        return scaled
    return interpolate(
        scaled, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """Flip a half of the images, and move all by up to an eighth of their size."""
    flips = torch.rand(len(images)) < 0.5
    images = torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)
    size = images.shape[-1]
    margin = size // 8
    padded = pad(images, [margin] * 4, mode="reflect")
    x, y = torch.randint(0, 2 * margin + 1, (2,)).tolist()
    return padded[..., y : y + size, x : x + size]


def _targets(labels: list[Any], count: int) -> torch.Tensor:
    """Return classes (n,), or where there are several, zeros and ones (n, count)."""
    if not isinstance(labels[0], list):
        return torch.tensor(labels)
    targets = torch.zeros(len(labels), count)
    for row, several in enumerate(labels):
        targets[row, several] = 1
    return targets
