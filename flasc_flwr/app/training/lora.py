"""The federated parameters of a model: read out as arrays, and written back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.method import Tunes
from flasc_flwr.core.ranks import rank_of

Model = PeftModel | PreTrainedModel
"""A backbone with a LoRA adapter, or one whose own parameters are trained."""


def prepare(
    backbone: PreTrainedModel,
    config: RunConfig,
    *,
    target_modules: str | list[str],
    head: list[str],
) -> Model:
    """Make trainable what the method tunes, and freeze the rest.

    A LoRA adapter is initialised by the run's seed.

    Parameters
    ----------
    backbone : PreTrainedModel
        The model; it becomes part of the result.
    config : RunConfig
        Method, rank, alpha, dropout and seed. The scale is ``alpha / rank``.
    target_modules : str or list[str]
        Modules to adapt: their last names, or a regular expression for full names.
    head : list[str]
        Modules trained whole, beside the factors or alone.
    """
    tunes = config.compose().tunes
    if tunes == Tunes.LORA:
        return _with_adapter(backbone, config, target_modules, head)
    for name, parameter in backbone.named_parameters():
        in_head = any(part in head for part in name.split("."))
        parameter.requires_grad_(tunes == Tunes.FULL or in_head)
    return backbone


def _with_adapter(
    backbone: PreTrainedModel,
    config: RunConfig,
    target_modules: str | list[str],
    head: list[str],
) -> PeftModel:
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=target_modules,
        modules_to_save=head,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers 5 for a property under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        # GPT-2's weights lie the other way round; PEFT sees it, and says so.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        torch.manual_seed(config.seed)
        model = get_peft_model(backbone, lora)
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PeftModel, got {type(model).__name__}")
    return model


def adapter_tensors(model: Model) -> dict[str, torch.nn.Parameter]:
    """Return the federated parameters by PEFT's names, or the model's own.

    Raises
    ------
    ValueError
        If these are not all the trainable parameters, and nothing else, when an
        adapter is first asked for: what is left out would never be federated.
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
"""Parameters of each adapter: PEFT takes longer to name them than a small step does."""


def _named_by_peft(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, save_embedding_layers=False, adapter_name=model.active_adapter
    )
    # The parameters themselves: PEFT's state holds detached aliases of them.
    trainable = {p.data_ptr(): p for p in model.parameters() if p.requires_grad}
    if {tensor.data_ptr() for tensor in tensors.values()} != trainable.keys():
        raise ValueError(
            f"the adapter has {len(tensors)} tensors and the model {len(trainable)} "
            "trainable parameters, which are not the same: do lora-targets and "
            "saved-modules name modules of this model?"
        )
    return {name: trainable[tensor.data_ptr()] for name, tensor in tensors.items()}


def read_adapter(model: Model) -> dict[str, NDArray[Any]]:
    """Return the federated tensors as arrays by their names: copies."""
    tensors = adapter_tensors(model)
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()
    }


def write_adapter(
    model: Model, arrays: Mapping[str, NDArray[Any]], config: RunConfig
) -> None:
    """Overwrite the whole adapter, with one of another rank where the arrays are.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape differs: nothing is written.
    """
    if isinstance(model, PeftModel):
        _use_rank(model, rank_of(Layout.of(arrays)), config)
    write_tensors(model, arrays)


def write_tensors(model: Model, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite the federated tensors as they are.

    Raises
    ------
    ValueError
        As :func:`write_adapter`.
    """
    tensors = adapter_tensors(model)
    if odd := sorted(tensors.keys() ^ arrays.keys()):
        raise ValueError(f"arrays and adapter differ in these names: {odd}")
    for name, array in arrays.items():
        if array.shape != tuple(tensors[name].shape):
            raise ValueError(
                f"array {name!r} has shape {array.shape}, "
                f"the adapter {tuple(tensors[name].shape)}"
            )
    with torch.no_grad():
        for name, array in arrays.items():
            tensors[name].copy_(torch.from_numpy(array))


def _use_rank(model: PeftModel, rank: int, config: RunConfig) -> None:
    """Make the adapter of a rank the active one; the model keeps one of each."""
    if rank in (0, _lora(model, model.active_adapter).r):
        return
    common = config.compose().rank_scale == "common"
    alpha = config.lora_alpha * (rank / config.lora_rank if common else 1.0)
    activate(
        model, "default" if rank == config.lora_rank else f"rank_{rank}", rank, alpha
    )


def activate(model: PeftModel, name: str, rank: int, alpha: float) -> None:
    """Make the adapter `name` the active one; it is added if it is not there."""
    if name not in model.peft_config:
        lora = copy(_lora(model, "default"))
        lora.r, lora.lora_alpha = rank, alpha  # type: ignore[assignment]
        # One of this name may have been there before, and been deleted.
        _PARAMETERS.get(model, {}).pop(name, None)
        with torch.random.fork_rng():
            model.add_adapter(name, lora)
    model.set_adapter(name)


def _lora(model: PeftModel, name: str) -> LoraConfig:
    return cast(LoraConfig, model.peft_config[name])
