"""LoRA adapters: put on a backbone, read out as arrays, and written back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedModel

from flasc_flwr.config import RunConfig


def add_adapter(
    backbone: PreTrainedModel,
    config: RunConfig,
    *,
    target_modules: str,
    modules_to_save: list[str],
) -> PeftModel:
    """Freeze a backbone and put a LoRA adapter on it, initialised by the run's seed.

    Parameters
    ----------
    backbone : PreTrainedModel
        The model; it becomes part of the result.
    config : RunConfig
        Rank, alpha, dropout and seed. The scale is ``alpha / rank``.
    target_modules : str
        Regular expression for the full names of the modules to adapt.
    modules_to_save : list[str]
        Modules trained whole beside the factors: the head.
    """
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=target_modules,
        modules_to_save=modules_to_save,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers 5 for a property under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        torch.manual_seed(config.seed)
        model = get_peft_model(backbone, lora)
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PeftModel, got {type(model).__name__}")
    return model


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's own tensors by PEFT's names: not copies.

    Raises
    ------
    RuntimeError
        If these are not all the trainable parameters, and nothing else: what is
        left out would never be federated.
    """
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, save_embedding_layers=False
    )
    trainable = {p.data_ptr() for p in model.parameters() if p.requires_grad}
    if {tensor.data_ptr() for tensor in tensors.values()} != trainable:
        raise RuntimeError(
            f"the adapter has {len(tensors)} tensors and the model {len(trainable)} "
            "trainable parameters, which are not the same"
        )
    return tensors


def read_adapter(model: PeftModel) -> dict[str, NDArray[Any]]:
    """Return the adapter as arrays by PEFT's names: copies."""
    tensors = adapter_tensors(model)
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()
    }


def write_adapter(model: PeftModel, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite the whole adapter.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape differs: nothing is written.
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
