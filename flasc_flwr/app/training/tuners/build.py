"""A backbone with a tuner of PEFT: built twice, so that devices are known to agree."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.tuners.config_file import name_of, read
from flasc_flwr.app.training.tuners.fields import peft_config_of
from flasc_flwr.app.training.tuners.frozen import (
    difference,
    frozen_state,
    sketch,
)
from flasc_flwr.app.training.tuners.requirements import (
    SAVED,
    require_patterns,
    require_targets,
    require_trained,
    require_unpacked,
)
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.layout import Role
from flasc_flwr.core.printable import why

_HASH_BYTES = 6
"""Bytes of the hash of a config: a float64 holds such a number exactly."""


@dataclass(frozen=True, eq=False)
class Tuner:
    """What is known of a model's tuner.

    Attributes
    ----------
    identity : list[float]
        Equal, up to rounding, wherever the same tuner was built: a hash of the config,
        and a sketch of the frozen state and of the initial values.
    """

    identity: list[float]


_TUNERS: WeakKeyDictionary[nn.Module, Tuner] = WeakKeyDictionary()


def tuner_of(model: nn.Module) -> Tuner | None:
    """Return what is known of a model's tuner; None if it has LoRA, or none."""
    return _TUNERS.get(model)


def with_tuner(
    backbone: PreTrainedModel,
    config: RunConfig,
    targets: str | list[str],
    head: list[str],
) -> PeftModel:
    """Add the tuner of ``peft-config`` to a backbone, initialised from the run's seed.

    Parameters
    ----------
    backbone : PreTrainedModel
        The model; it becomes part of the result.
    config : RunConfig
        The PEFT config and the seed.
    targets : str or list[str]
        Modules to adapt if the file does not say.
    head : list[str]
        Modules that are trained fully.

    Raises
    ------
    ValueError
        If the config is wrong, or devices cannot rebuild what the tuner does not train.
    """
    name, given = name_of(config.peft_config), read(config.peft_config)
    kind = given.get("peft_type")
    require_unpacked(config, kind, name)
    wanted = peft_config_of(given, name, targets, head)
    require_targets(backbone, wanted, given, name)
    tensors = [*backbone.parameters(), *backbone.buffers()]
    known = {id(tensor) for tensor in tensors}
    before = _versions(tensors)
    # With another seed: what differs then is not from a seed in the config.
    twin = _built(_twin(backbone), wanted, config.seed + 1, name)
    model = _built(backbone, wanted, config.seed, name)
    if _versions(tensors) != before:
        raise ValueError(
            f"peft-config {name} must leave the model's own weights as they are, which "
            f"{kind} does not with these settings"
        )
    frozen = frozen_state(model, known)
    if odd := difference(frozen, frozen_state(twin, known)):
        raise ValueError(
            f"peft-config {name} must have a frozen state that every device can "
            f"rebuild: {kind} draws {odd} at random, and from no "
            "seed in the config"
        )
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    require_trained(trained, config, f"peft-config {name} of type {kind}")
    require_patterns(model, wanted, name)
    _TUNERS[model] = Tuner([_hash_of(given), *sketch(frozen | trained)])
    return model


def require_same(config: RunConfig, sent: object) -> None:
    """Check, before it is used, that this device's file is the server's.

    Raises
    ------
    ValueError
        If it is not. The message quotes nothing of the file, which may be any file.
    """
    try:
        ours = _hash_of(read(config.peft_config))
    except ValueError as error:
        raise ValueError(_DIFFERS) from error
    if not isinstance(sent, list) or not sent or sent[0] != ours:
        raise ValueError(_DIFFERS)


_DIFFERS = (
    "peft-config must be a file with the same fields as the server's on every device; "
    "JSON text in place of a path needs no file"
)


def _hash_of(given: Mapping[str, Any]) -> float:
    """Return a hash of a config's fields, in whatever order they are."""
    text = as_json(given, sort_keys=True, compact=True)
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:_HASH_BYTES]))


def train_mode(model: nn.Module) -> None:
    """Put a tuner's own modules into training mode, and leave the backbone's."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.training = True
            for name, child in module.named_children():
                if name != "base_layer":
                    child.train()


def roles_of(model: nn.Module, tensors: Mapping[str, nn.Parameter]) -> dict[str, Role]:
    """Return the roles of a tuner's tensors: the head's, and all others."""
    saved = {id(p) for n, p in model.named_parameters() if SAVED in n}
    return {
        name: Role.HEAD if id(tensor) in saved else Role.OTHER
        for name, tensor in tensors.items()
    }


def _versions(tensors: list[torch.Tensor]) -> list[tuple[int, int]]:
    """Return what changes if a tensor is written to or replaced."""
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


def _twin(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a backbone that shares its weights: it takes no memory."""
    shared = {id(p): p for p in [*backbone.parameters(), *backbone.buffers()]}
    return deepcopy(backbone, memo=shared)


def _built(
    backbone: PreTrainedModel, wanted: PeftConfig, seed: int, name: str
) -> PeftModel:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        torch.manual_seed(seed)
        try:
            # PEFT writes what it finds out into the config.
            model = get_peft_model(backbone, deepcopy(wanted))
        except Exception as error:
            # Each tuner has its own demands, with errors of many kinds.
            raise ValueError(
                f"peft-config {name} does not fit the model: {why(error)}"
            ) from error
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PeftModel, got {type(model).__name__}")
    return model
