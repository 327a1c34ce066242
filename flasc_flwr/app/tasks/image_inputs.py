"""Which images a model takes: their size, channels and range of values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import model_path
from flasc_flwr.core.json_lines import as_json

_CHANNELS = (1, 3)
"""Gray or RGB."""

_WHITE = 255

_TYPE, _OLD_TYPE = "ImageProcessor", "feature_extractor_type"

_KEYS = (
    *("do_rescale", "rescale_factor", "rescale_offset", "do_normalize"),
    *("image_mean", "image_std", "include_top", "do_flip_channel_order"),
)
"""What a preprocessor does to the values of pixels, as transformers calls it."""


class InputShape(NamedTuple):
    """Size and channels of the square images that a model takes."""

    size: int
    channels: int


class ImageInputs(NamedTuple):
    """How pixels become a model's inputs.

    Attributes
    ----------
    shape : InputShape
        Size and channels.
    mean, std : Tensor, shape (1, channels, 1, 1)
        What pixels in [0, 1] are normalised by.
    reverse : bool
        Whether the model takes blue, green, red.
    """

    shape: InputShape
    mean: torch.Tensor
    std: torch.Tensor
    reverse: bool

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """Return inputs for images in [0, 1] of shape (n, channels, size, size)."""
        scaled = (images - self.mean) / self.std
        return scaled.flip(1) if self.reverse else scaled


def image_inputs(model: PreTrainedModel, config: RunConfig) -> ImageInputs:
    """Return how pixels become a model's inputs.

    The model's config has the size, or else its ``preprocessor_config.json``. The
    latter has the mean and the deviation; what it leaves out is as the class of
    transformers that it names has it. Without that file, both are 0.5.

    Raises
    ------
    ValueError
        If their size is not known, they are not square, or not gray or RGB, or the mean
        and the deviation are for other channels.
    """
    settings = _preprocessor(config)
    shape = _shape(model, settings, config)
    settings = {**_defaults(settings, shape.channels), **settings}
    mean, std = _normalisation(settings, shape.channels, config)
    return ImageInputs(shape, mean, std, bool(settings.get("do_flip_channel_order")))


def save_preprocessor(config: RunConfig, folder: Path) -> None:
    """Save how the model's images are prepared, where that is known, beside a model.

    Wherever it stands: a model on the hub has no folder, and newer models of images and
    texts have it in their ``processor_config.json``.
    """
    if settings := _preprocessor(config):
        text = as_json(dict(settings), indent=2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preprocessor_config.json").write_text(text)


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
    # In transformers, null turns a step off.
    return {k: v for k, v in settings.items() if v is not None or k.startswith("do_")}


def _defaults(settings: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return what the class of transformers that a preprocessor names does by itself.

    MobileViT's does not normalise, and makes RGB to BGR; CLIP's has a mean of its own.
    """
    named = settings.get("image_processor_type") or settings.get(_OLD_TYPE) or ""
    name = str(named).replace("FeatureExtractor", _TYPE).removesuffix("Fast")
    name = name.removesuffix("Pil")
    if not name.endswith(_TYPE):
        return {}
    # The one that works without torchvision comes first.
    for each in (f"{name}Pil", name):
        with suppress(AttributeError, ImportError, TypeError, ValueError):
            processor = getattr(transformers, each)()
            found = {key: getattr(processor, key, None) for key in _KEYS}
            return {"do_normalize": False} | {
                key: value
                for key, value in found.items()
                if value is not None
                and (isinstance(value, int | float) or len(value) == channels)
            }
    return {}


def _shape(
    model: PreTrainedModel, settings: Mapping[str, Any], config: RunConfig
) -> InputShape:
    inner = getattr(model.config, "vision_config", model.config)
    size = getattr(inner, "image_size", None)
    if size is None:
        # Convolutions take any size: that of the training.
        crop = (
            settings.get("crop_size") if settings.get("do_center_crop", True) else None
        )
        size = crop or settings.get("size")
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
    mean, std = settings.get("image_mean", half), settings.get("image_std", half)
    own = std
    if not settings.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    mean, std, own = (
        [v] * channels if isinstance(v, int | float) else v for v in (mean, std, own)
    )
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
    if settings.get("include_top"):
        # EfficientNet's divides again, also where it does not normalise.
        deviations = deviations * torch.tensor(own).view(1, -1, 1, 1)
    return (means + shift) / white, deviations / white
