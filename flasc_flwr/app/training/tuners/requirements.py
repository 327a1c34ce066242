"""What a tuner must do, and PEFT does not check: adapt what it names, and train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.attention import matches
from flasc_flwr.core.printable import printable

SAVED = ".modules_to_save."
"""In the names of what is trained fully: the head."""

ON_PACKED = (
    *("BEFT", "BOFT", "FOURIERFT", "HIRA", "IA3", "LILY", "LN_TUNING", "MISS", "OFT"),
    *("PVERA", "RANDLORA", "ROAD", "SHIRA", "VBLORA", "VERA", "WAVEFT"),
)
"""Tuners that compute on packed weights what they do on the weights themselves. Others
read the packed bytes as numbers, or train nothing."""


def require_unpacked(config: RunConfig, kind: Any, name: str) -> None:
    """Check that a tuner can be used with the run's backbone, if that is quantized.

    Raises
    ------
    ValueError
        If it cannot.
    """
    if config.quantize != "none" and kind not in ON_PACKED:
        raise ValueError(
            f"quantize must be 'none' with peft-config {name} of type "
            f"{printable(kind, 60)}: known to work with packed weights are "
            f"{', '.join(ON_PACKED)}, got {config.quantize!r}"
        )


def require_targets(
    backbone: PreTrainedModel,
    wanted: PeftConfig,
    given: Mapping[str, Any],
    name: str,
) -> None:
    """Refuse what PEFT ignores of the modules that a config names.

    Raises
    ------
    ValueError
        If a name in a list of modules is none of the model's, or layers are chosen
        without such a list.
    """
    targets = getattr(wanted, "target_modules", None)
    modules = [module for module, _ in backbone.named_modules()]
    for target in [] if isinstance(targets, str) else sorted(targets or []):
        if not any(matches(module, target) for module in modules):
            raise ValueError(
                f"peft-config {name} does not fit the model: target_modules must name "
                f"its modules, got {printable(target, 60)!r}"
            )
    layers = getattr(wanted, "layers_to_transform", None)
    if layers not in (None, []) and not isinstance(given.get("target_modules"), list):
        raise ValueError(
            f"peft-config {name}: layers_to_transform needs a list of target_modules "
            "in the same config"
        )


def require_patterns(model: PeftModel, wanted: PeftConfig, name: str) -> None:
    """Refuse patterns for ranks and scales that no adapted module has.

    Raises
    ------
    ValueError
        If there is one: PEFT would ignore it.
    """
    adapted: list[str] = getattr(model.base_model, "targeted_module_names", [])
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(wanted, field, None) or {}:
            if not any(get_pattern_key([pattern], each) == pattern for each in adapted):
                raise ValueError(
                    f"peft-config {name}: {field} must name adapted modules, got "
                    f"{printable(pattern, 60)!r}"
                )


def require_trained(
    trained: Mapping[str, nn.Parameter], config: RunConfig, what: str
) -> None:
    """Check that something is trained beside the head, and all of it in float32.

    Raises
    ------
    ValueError
        If not.
    """
    if all(SAVED in name for name in trained):
        raise ValueError(f"{what} adapts no module of this model")
    for name, tensor in trained.items():
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"backbone-precision must be 'float32' with {what}, which trains "
                f"tensors of the model's own precision, such as {name}, got "
                f"{config.backbone_precision!r}"
            )
