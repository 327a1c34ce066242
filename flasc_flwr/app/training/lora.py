"""The federated parameters of a model: read as arrays, and written back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from math import sqrt
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.optional import without
from flasc_flwr.app.training import cores
from flasc_flwr.app.training.tuners.build import roles_of, tuner_of
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.ranks import rank_of

Model = PeftModel | PreTrainedModel
"""A backbone with a LoRA adapter, or one whose parameters are trained directly."""


def adapter_tensors(model: Model) -> dict[str, torch.nn.Parameter]:
    """Return the federated parameters by PEFT's names, or by the model's.

    Raises
    ------
    ValueError
        If these are not exactly the trainable parameters (checked once per adapter):
        the others would never be federated.
    """
    if not isinstance(model, PeftModel):
        return {n: p for n, p in model.named_parameters() if p.requires_grad}
    known = _PARAMETERS.setdefault(model, {})
    name = model.active_adapter
    if name not in known:
        known[name] = _named_by_peft(model)
    return known[name]


_PARAMETERS: WeakKeyDictionary[PeftModel, dict[str, dict[str, torch.nn.Parameter]]] = (
    WeakKeyDictionary()
)
"""Parameters of each adapter, cached: PEFT takes longer to name them than a step."""


def saved_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the tensors of the active adapter as PEFT saves them, by name."""
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, save_embedding_layers=False, adapter_name=model.active_adapter
    )
    return state


def _named_by_peft(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    tensors = cores.in_place_of_factors(model, saved_state(model))
    # The parameters themselves: PEFT's state holds detached aliases of them.
    scales = {p.data_ptr() for p in cores.trained_scales(model)}
    trainable = {
        p.data_ptr(): p
        for p in model.parameters()
        if p.requires_grad and p.data_ptr() not in scales
    }
    if tuner_of(model):
        tensors = _trained_once(tensors, trainable)
    if {tensor.data_ptr() for tensor in tensors.values()} != trainable.keys():
        raise ValueError(
            "the adapter must have exactly the trainable parameters, got "
            f"{len(tensors)} tensors and {len(trainable)} trainable parameters: check "
            "that lora-targets and saved-modules name modules of this model"
        )
    return {name: trainable[tensor.data_ptr()] for name, tensor in tensors.items()}


def _trained_once(
    tensors: Mapping[str, torch.Tensor], trainable: Mapping[int, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return the trainable tensors, one that several modules share under one name.

    PEFT saves what some tuners do not train, too.
    """
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in trainable:
            first.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name] for name in first.values()}


def trained_parameters(model: Model) -> list[torch.nn.Parameter]:
    """Return what an optimizer trains: the federated parameters, and heads' scales."""
    federated = [p for p in adapter_tensors(model).values() if p.requires_grad]
    return federated + cores.trained_scales(model)


_STARTS: WeakKeyDictionary[Model, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""Tensors of each model that travel as differences, before training: DoRA's magnitudes,
which are the lengths of the weights' rows; all of another tuner's; and a head with a
density of its own."""


def keep_starts(model: Model, names: Iterable[str]) -> None:
    """Let the named tensors travel as differences to what they are now."""
    tensors, starts = adapter_tensors(model), _STARTS.setdefault(model, {})
    starts |= {name: tensors[name].detach().clone() for name in names}


def starts_of(model: Model) -> dict[str, torch.Tensor]:
    """Return where the tensors started that travel as differences, by name."""
    return dict(_STARTS.get(model, {}))


def read_adapter(model: Model) -> dict[str, NDArray[Any]]:
    """Return copies of the federated tensors as arrays, by name.

    DoRA's magnitudes, the tensors of other tuners, and a head with a density of its
    own are differences to where they started. So zero means untrained, as for B: a
    sparse message that leaves one out does not turn a row of weights off. The heads of
    a core are multiplied by the scales that were trained with them.
    """
    return {name: np.array(array) for name, array in adapter_views(model).items()}


def adapter_views(model: Model) -> dict[str, NDArray[Any]]:
    """Return the arrays of :func:`read_adapter`, which change as the model trains.

    They share the memory of the model's tensors where these are on the CPU.
    """
    arrays = cores.with_scales(model, _views(model))
    for name, start in _STARTS.get(model, {}).items():
        arrays[name] = arrays[name] - start.cpu().numpy()
    return arrays


def read_tensors(model: Model) -> dict[str, NDArray[Any]]:
    """Return copies of the federated tensors as PEFT saves them, by name."""
    return {name: np.array(array) for name, array in _views(model).items()}


def _views(model: Model) -> dict[str, NDArray[Any]]:
    return {n: t.detach().cpu().numpy() for n, t in adapter_tensors(model).items()}


_HEADS: WeakKeyDictionary[Model, frozenset[str]] = WeakKeyDictionary()
"""The head's tensors in models without an adapter, where roles have own settings."""


def mark_head(model: Model, names: Iterable[str]) -> None:
    """Give the named tensors the role of the head, and all others that of others.

    For a model without an adapter, where names do not say which tensors are the head's.
    """
    _HEADS[model] = frozenset(names)


def adapter_roles(model: Model) -> dict[str, Role] | None:
    """Return the roles of the tensors where their names do not say; else None."""
    if model in _HEADS:
        head = _HEADS[model]
        return {
            n: Role.HEAD if n in head else Role.OTHER for n in adapter_tensors(model)
        }
    return roles_of(model, adapter_tensors(model)) if tuner_of(model) else None


def write_adapter(
    model: Model, arrays: Mapping[str, NDArray[Any]], config: RunConfig
) -> None:
    """Overwrite the adapter; arrays of another rank activate an adapter of that rank.

    Cores change their size instead, and their heads' scales become 1.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape differs; nothing is written then.
    """
    own_ranks = tuner_of(model) or cores.resize(model, arrays)
    if isinstance(model, PeftModel) and not own_ranks:
        _use_rank(model, rank_of(Layout.of(arrays)), config)
    started = {
        name: arrays[name] + start.cpu().numpy()
        for name, start in _STARTS.get(model, {}).items()
        if name in arrays
    }
    write_tensors(model, {**arrays, **started})


def write_tensors(model: Model, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite the federated tensors of the active adapter, as PEFT saves them.

    Raises
    ------
    ValueError
        As :func:`write_adapter`.
    """
    tensors = adapter_tensors(model)
    if odd := sorted(tensors.keys() ^ arrays.keys()):
        raise ValueError(f"arrays must have the names of the adapter, differ in {odd}")
    for name, array in arrays.items():
        if array.shape != tuple(tensors[name].shape):
            raise ValueError(
                f"array {name!r} must have shape {tuple(tensors[name].shape)}, got "
                f"{array.shape}"
            )
    with torch.no_grad():
        for name, array in arrays.items():
            # torch has no read-only tensors: those are copied one at a time.
            own = array if array.flags.writeable else array.copy()
            tensors[name].copy_(torch.from_numpy(own))


def _use_rank(model: PeftModel, rank: int, config: RunConfig) -> None:
    """Activate the adapter of a rank; the model keeps one for each rank."""
    if rank in (0, _lora(model, model.active_adapter).r):
        return
    common = config.compose().rank_scale == "common"
    alpha = config.adapter_scale * config.per_scale(rank)
    alpha = alpha if common else config.lora_alpha
    activate(
        model, "default" if rank == config.lora_rank else f"rank_{rank}", rank, alpha
    )


def activate(model: PeftModel, name: str, rank: int, alpha: float) -> None:
    """Activate the adapter `name`; it is added if it does not exist."""
    if name not in model.peft_config:
        lora = copy(_lora(model, "default"))
        lora.r, lora.lora_alpha = rank, alpha  # type: ignore[assignment]
        # A deleted adapter may have had the same name.
        _PARAMETERS.get(model, {}).pop(name, None)
        with torch.random.fork_rng(), without("bitsandbytes"):
            model.add_adapter(name, lora)
    model.set_adapter(name)
    cores.freeze_bases(model)


def alpha_of(model: PeftModel, scale: float, rank: int) -> float:
    """Return the alpha with which an adapter of a rank has a scale."""
    return scale * (sqrt(rank) if _lora(model, "default").use_rslora else rank)


def _lora(model: PeftModel, name: str) -> LoraConfig:
    return cast(LoraConfig, model.peft_config[name])
