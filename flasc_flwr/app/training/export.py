"""Saving what was federated for PEFT, and starting from what PEFT saved."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from peft.utils.save_and_load import load_peft_weights
from transformers import AutoConfig

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import Model, activate, read_adapter, write_tensors
from flasc_flwr.core.factors import lora_modules
from flasc_flwr.core.layout import Arrays, Layout
from flasc_flwr.core.merged import factors_of

_EXPORT = "export"


def save(
    model: Model, path: Path, merged: Mapping[str, NDArray[Any]], scale: float
) -> None:
    """Save a PEFT adapter, or the model itself where all of it was tuned.

    What was merged into the backbone becomes components of the adapter, exactly: it
    then has a rank of its own, and the backbone stays as it was.

    Parameters
    ----------
    model : Model
        The model; its active adapter is saved.
    path : Path
        Folder to make, or to make anew.
    merged : Mapping[str, NDArray]
        What was merged, in units of B A.
    scale : float
        The adapter's scale, alpha / rank.
    """
    # A run that is gone on with leaves its results where they were before.
    shutil.rmtree(path, ignore_errors=True)
    if not isinstance(model, PeftModel):
        model.save_pretrained(path)
        return
    name = model.active_adapter
    if merged:
        arrays = _with_merged(read_adapter(model), merged)
        rank = max(a.shape[0] for key, a in arrays.items() if ".lora_A." in key)
        activate(model, _EXPORT, rank, scale * rank)
        write_tensors(model, arrays)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        active = model.active_adapter
        model.save_pretrained(
            scratch, selected_adapters=[active], save_embedding_layers=False
        )
        # PEFT puts every adapter but "default" into a folder of its own.
        saved = Path(scratch) if active == "default" else Path(scratch) / active
        shutil.copytree(saved, path)
    if merged:
        model.set_adapter(name)
        model.delete_adapter(_EXPORT)


def load_into(model: Model, path: str, config: RunConfig) -> None:
    """Start from an adapter that PEFT saved, every tensor of it.

    Raises
    ------
    ValueError
        If there is none, or it does not fit the run config or the model.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"adapter is {path!r}, but method {config.method!r} has no adapter: "
            "allowed is ''"
        )
    if config.compose().init == "shared-seed":
        # Clients would start from the seed's A, and not from the adapter's.
        raise ValueError(
            f"adapter is {path!r}, but with method {config.method!r} every client "
            "draws the initial A from a seed: allowed is '', or init = 'sent'"
        )
    folder = Path(os.path.expandvars(path)).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"adapter is {path!r}, which has no adapter_config.json")
    saved = LoraConfig.from_pretrained(str(folder))
    for key, theirs, ours in (
        ("lora-rank", saved.r, config.lora_rank),
        ("lora-alpha", saved.lora_alpha, config.lora_alpha),
    ):
        if theirs != ours:
            raise ValueError(
                f"{key} is {ours!r}, but the adapter in {path!r} has {theirs!r}: "
                f"allowed with it is {theirs!r}"
            )
    tensors = load_peft_weights(str(folder), device="cpu")
    write_tensors(model, {name: t.float().numpy() for name, t in tensors.items()})


def load_for_evaluation(model: Model, folder: Path) -> None:
    """Put what :func:`save` wrote on a model, whatever rank it has.

    Raises
    ------
    ValueError
        If it does not fit the model, tensor by tensor.
    """
    if not isinstance(model, PeftModel):
        config = AutoConfig.from_pretrained(folder)
        loaded = type(model).from_pretrained(folder, config=config)
        model.load_state_dict(loaded.state_dict())
        return
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{str(folder)!r} is a whole model, and the run has adapters")
    try:
        model.load_adapter(str(folder), _EXPORT)
    except RuntimeError as error:
        raise ValueError(
            f"the adapter in {str(folder)!r} does not fit the model: {error}"
        ) from error
    model.set_adapter(_EXPORT)
    saved = load_peft_weights(str(folder), device="cpu")
    # PEFT passes over what it does not know: here that is an error.
    write_tensors(model, {name: t.float().numpy() for name, t in saved.items()})


def _with_merged(adapter: Arrays, merged: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the adapter with what was merged as further components."""
    arrays = dict(adapter)
    for module in lora_modules(Layout.of(adapter)):
        a, b = adapter[module.a.name], adapter[module.b.name]
        more_b, more_a = factors_of(merged, module.name)
        arrays[module.a.name] = np.concatenate([a, more_a], axis=0)
        arrays[module.b.name] = np.concatenate([b, more_b], axis=1)
    # PEFT has one rank for all modules: zeros fill up the others.
    rank = max(arrays[m.a.name].shape[0] for m in lora_modules(Layout.of(adapter)))
    for module in lora_modules(Layout.of(adapter)):
        missing = rank - arrays[module.a.name].shape[0]
        arrays[module.a.name] = np.pad(arrays[module.a.name], ((0, missing), (0, 0)))
        arrays[module.b.name] = np.pad(arrays[module.b.name], ((0, 0), (0, missing)))
    return arrays
