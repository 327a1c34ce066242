"""Saving adapters in PEFT's format, and loading them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.utils.save_and_load import load_peft_weights
from transformers import AutoConfig

from flasc_flwr.app.training import cores
from flasc_flwr.app.training.card import describe
from flasc_flwr.app.training.lora import (
    Model,
    activate,
    adapter_tensors,
    alpha_of,
    saved_state,
    write_tensors,
)
from flasc_flwr.app.training.low_rank_head import dense_heads
from flasc_flwr.app.training.tuners.build import tuner_of
from flasc_flwr.core.factors import lora_modules
from flasc_flwr.core.layout import Arrays, Layout
from flasc_flwr.core.merged import factors_of

_EXPORT = "export"


def save(
    model: Model, path: Path, merged: Mapping[str, NDArray[Any]], scale: float
) -> None:
    """Save a PEFT adapter, or the model if it has no adapter.

    Products that were merged into the backbone are saved as further components of the
    adapter, without loss: the saved adapter then has a larger rank, and loads on the
    original backbone. A head in two factors is saved as their product, and cores as
    LoRA factors of their rank.

    Parameters
    ----------
    model : Model
        The model; its active adapter is saved.
    path : Path
        The folder to write; replaced if it exists.
    merged : Mapping[str, NDArray]
        Products that were merged, in units of B A.
    scale : float
        The factor of B A in the model.
    """
    # A resumed run writes its results to the same folder.
    shutil.rmtree(path, ignore_errors=True)
    with dense_heads(model):
        _save(model, path, merged, scale)


def _save(
    model: Model, path: Path, merged: Mapping[str, NDArray[Any]], scale: float
) -> None:
    if not isinstance(model, PeftModel):
        model.save_pretrained(path)
        describe(model, path)
        return
    name = model.active_adapter
    arrays = cores.as_lora(model)
    if merged:
        # The head is as the model has it now: in one, also if it trained in factors.
        state = saved_state(model)
        arrays = _with_merged({n: t.cpu().numpy() for n, t in state.items()}, merged)
    if arrays is not None:
        rank = max(a.shape[0] for key, a in arrays.items() if ".lora_A." in key)
        activate(model, _EXPORT, rank, alpha_of(model, scale, rank))
        write_tensors(model, arrays)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        active = model.active_adapter
        model.save_pretrained(
            scratch, selected_adapters=[active], save_embedding_layers=False
        )
        # PEFT writes adapters with other names than "default" to a subfolder.
        saved = Path(scratch) if active == "default" else Path(scratch) / active
        shutil.copytree(saved, path)
    describe(model, path)
    if arrays is not None:
        model.set_adapter(name)
        model.delete_adapter(_EXPORT)
        cores.freeze_bases(model)


def load_for_evaluation(model: Model, folder: Path) -> None:
    """Load what :func:`save` wrote into a model, with any rank.

    Raises
    ------
    ValueError
        If a tensor does not match the model.
    """
    if not isinstance(model, PeftModel):
        config = AutoConfig.from_pretrained(folder)
        loaded = type(model).from_pretrained(folder, config=config)
        model.load_state_dict(loaded.state_dict())
        return
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{str(folder)!r} is a model and not an adapter")
    if tuner_of(model):
        _load_tuner(model, folder)
        return
    try:
        model.load_adapter(str(folder), _EXPORT)
    except RuntimeError as error:
        raise ValueError(
            f"the adapter in {str(folder)!r} does not fit the model: {error}"
        ) from error
    model.set_adapter(_EXPORT)
    saved = load_peft_weights(str(folder), device="cpu")
    # PEFT ignores unknown tensors; here they are an error.
    write_tensors(model, {name: t.float().numpy() for name, t in saved.items()})


def _load_tuner(model: PeftModel, folder: Path) -> None:
    """Load a tuner's trained tensors; what is saved beside them was built already.

    Raises
    ------
    ValueError
        If a tensor does not match the model.
    """
    saved = load_peft_weights(str(folder), device="cpu")
    names = adapter_tensors(model)
    write_tensors(model, {n: t.numpy() for n, t in saved.items() if n in names})
    for name, built in saved_state(model).items():
        if name in saved and not _close(built.cpu(), saved[name]):
            raise ValueError(
                f"the adapter in {str(folder)!r} has another frozen state than the "
                f"installed PEFT and torch build: {name!r} differs"
            )


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=1e-3, atol=1e-5
    )


def _with_merged(adapter: Arrays, merged: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the adapter with merged products as further components."""
    arrays = dict(adapter)
    for module in lora_modules(Layout.of(adapter)):
        a, b = adapter[module.a.name], adapter[module.b.name]
        more_b, more_a = factors_of(merged, module.name)
        arrays[module.a.name] = np.concatenate([a, more_a], axis=0)
        arrays[module.b.name] = np.concatenate([b, more_b], axis=1)
    # PEFT has one rank for all modules: pad the others with zeros.
    rank = max(arrays[m.a.name].shape[0] for m in lora_modules(Layout.of(adapter)))
    for module in lora_modules(Layout.of(adapter)):
        missing = rank - arrays[module.a.name].shape[0]
        arrays[module.a.name] = np.pad(arrays[module.a.name], ((0, missing), (0, 0)))
        arrays[module.b.name] = np.pad(arrays[module.b.name], ((0, 0), (0, missing)))
    return arrays
