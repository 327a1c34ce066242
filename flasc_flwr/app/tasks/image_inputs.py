"""Which images a model takes: their size, channels and range of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import model_path

_CHANNELS = (1, 3)
"""Gray or RGB."""

_WHITE = 255


class InputShape(NamedTuple):
    """Size and channels of the square images that a model takes."""

    size: int
    channels: int


def image_inputs(
    model: PreTrainedModel, config: RunConfig
) -> tuple[InputShape, torch.Tensor, torch.Tensor]:
    """Return the shape of a model's images, and the mean and deviation to normalise by.

    The model's config has the size, or else its ``preprocessor_config.json``; the
    latter has the mean and the deviation, or both are 0.5.

    Raises
    ------
    ValueError
        If their size is not known, they are not square, or not gray or RGB, or the mean
        and the deviation are for other channels.
    """
    settings = _preprocessor(config)
    shape = _shape(model, settings, config)
    return shape, *_normalisation(settings, shape.channels, config)


def _preprocessor(config: RunConfig) -> Mapping[str, Any]:
    path = model_path(config.model)
    settings: dict[str, Any]
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError as error:
        if "valid JSON" not in str(error):  # there is none
            return {}
        raise ValueError(
            f"model {config.model!r} must have a preprocessor_config.json in JSON, or "
            "none"
        ) from error
    return settings


def _shape(
    model: PreTrainedModel, settings: Mapping[str, Any], config: RunConfig
) -> InputShape:
    inner = getattr(model.config, "vision_config", model.config)
    size = getattr(inner, "image_size", None)
    if size is None:
        # Convolutions take any size: that of the training.
        size = settings.get("crop_size") or settings.get("size")
    if size is None:
        raise ValueError(
            "model must come with the size of its images, as image_size in config.json "
            f"or as size in preprocessor_config.json, got {config.model!r} without"
        )
    channels = getattr(inner, "num_channels", 3)
    if isinstance(size, Mapping):
        size = list(size.values())
    sizes = {size} if isinstance(size, int) else set(size)
    if len(sizes) != 1 or channels not in _CHANNELS:
        raise ValueError(
            "model must take square images with 1 or 3 channels, got "
            f"{config.model!r} with size {size} and {channels} channels"
        )
    return InputShape(sizes.pop(), channels)


def _normalisation(
    settings: Mapping[str, Any], channels: int, config: RunConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, of shape (1, channels, 1, 1), for pixels in [0, 1]."""
    half = [0.5] * channels
    mean, std = settings.get("image_mean") or half, settings.get("image_std") or half
    if not settings.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    mean, std = ([v] * channels if isinstance(v, float) else v for v in (mean, std))
    if {len(mean), len(std)} != {channels}:
        raise ValueError(
            f"model must have an image_mean and an image_std for its {channels} "
            f"channels, got {config.model!r} with {mean} and {std} in its "
            "preprocessor_config.json"
        )
    # White becomes this in the model's own preprocessing, before it is normalised.
    white = _WHITE * settings.get("rescale_factor", 1 / _WHITE)
    if not settings.get("do_rescale", True):
        white = float(_WHITE)
    shift = 1.0 if settings.get("rescale_offset") else 0.0
    means, deviations = (
        torch.tensor(value, dtype=torch.float32).view(1, -1, 1, 1)
        for value in (mean, std)
    )
    return (means + shift) / white, deviations / white
