"""Starting a run from an adapter that PEFT saved."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from logging import WARNING
from math import inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, PeftModel
from peft.utils.other import get_pattern_key
from peft.utils.save_and_load import load_peft_weights

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import Model, read_adapter, write_tensors
from flasc_flwr.core.factors import lora_modules
from flasc_flwr.core.layout import Arrays, Layout
from flasc_flwr.core.printable import printable, why
from flasc_flwr.flower.compat import log

_UNDERSTOOD = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("base_model_name_or_path", "revision", "runtime_config", "ensure_weight_tying"),
    # Names of tensors say which modules have factors, and shapes say their ranks.
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"),
    *("layers_pattern", "r", "rank_pattern", "fan_in_fan_out"),
    # What the scale is made of, and what acts in training only.
    *("lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout"),
    "use_dora",
}
"""Fields of a PEFT config that either do not matter here or are taken into account."""

_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to initialise an adapter that leave the backbone as it was."""

_PREFIX = "base_model.model."


def load_into(model: Model, path: str, config: RunConfig) -> None:
    """Load an adapter that PEFT saved, to start a run from it.

    Its product B A is kept. The run has one rank and one scale for all modules: where
    the adapter has another scale (rsLoRA, ``alpha_pattern``), B is rescaled; where it
    has a lower rank (``rank_pattern``), A gets further rows, drawn from the run's seed,
    and B columns of zeros.

    Parameters
    ----------
    model : Model
        The model; its active adapter is overwritten.
    path : str
        A folder that PEFT's ``save_pretrained`` wrote.
    config : RunConfig
        Rank and alpha of the run.

    Raises
    ------
    ValueError
        If there is none, or it has a setting, a tensor or a value that the run's model
        cannot have.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(
            f"adapter must be '' with method {config.method!r}, which has no adapter, "
            f"got {path!r}"
        )
    if config.compose().init == "shared-seed":
        # Clients would start from the A of the seed, not from that of the adapter.
        raise ValueError(
            f"adapter must be '' with method {config.method!r}, where clients draw the "
            f"initial A from a seed, got {path!r}: set init = 'sent' to use it"
        )
    folder = Path(os.path.expandvars(path)).expanduser()
    if not folder.is_absolute():
        raise ValueError(
            "adapter must be an absolute path, since the processes of a run work in "
            f"other folders than yours, got {path!r}"
        )
    saved = _saved_config(folder, path)
    tensors = _saved_tensors(folder, path)
    ours = read_adapter(model)
    if bool(saved.get("use_dora")) != config.use_dora:
        raise ValueError(
            f"use-dora must be {str(not config.use_dora).lower()}, as in the adapter "
            f"{path!r}, got {str(config.use_dora).lower()}"
        )
    _check_tensors(tensors, ours, path)
    _check_settings(saved, tensors, config, path)
    _say_other_model(saved, config)
    write_tensors(model, _at_the_runs_scale(saved, tensors, ours, config))


def _saved_config(folder: Path, path: str) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        inner = sorted(found.parent.name for found in folder.glob(f"*/{file.name}"))
        hint = f": set it to its folder {printable(inner[0], 80)!r}" if inner else ""
        raise ValueError(
            f"adapter must be a folder with an adapter_config.json, got {path!r}{hint}"
        )
    try:
        saved = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"adapter must have an adapter_config.json in JSON, got {path!r}: "
            f"{why(error)}"
        ) from error
    kind = saved.get("peft_type") if isinstance(saved, dict) else None
    if kind != "LORA":
        raise ValueError(f"adapter must be of type LORA, got {path!r} of type {kind!r}")
    defaults = {field.name: field for field in fields(LoraConfig)}
    for name, value in saved.items():
        known = defaults.get(name)
        usual = None if known is None or known.default is MISSING else known.default
        if name == "init_lora_weights":
            odd = value not in _PLAIN_STARTS
        else:
            odd = name not in _UNDERSTOOD and bool(value) and value != usual
        # "none" is PEFT's word for no bias.
        if odd and value != "none":
            raise ValueError(
                "adapter must be LoRA, rsLoRA or DoRA, "
                f"got {path!r} with {printable(name, 40)} = {printable(value, 40)}"
            )
    patterns = saved.get("alpha_pattern") or {}
    alphas = [saved.get("lora_alpha"), *(patterns.values() if _fit(patterns) else [0])]
    if not all(isinstance(a, int | float) and 0 < a < inf for a in alphas):
        raise ValueError(
            f"adapter must have numbers > 0 as lora_alpha and in alpha_pattern, got "
            f"{path!r}"
        )
    return saved  # type: ignore[no-any-return]


def _fit(patterns: Any) -> bool:
    """Whether these are patterns of modules' names."""
    try:
        return isinstance(patterns, dict) and all(map(re.compile, patterns))
    except re.error:
        return False


def _saved_tensors(folder: Path, path: str) -> Arrays:
    names = ("adapter_model.safetensors", "adapter_model.bin")
    if not any((folder / name).is_file() for name in names):
        raise ValueError(f"adapter must be a folder with {names[0]}, got {path!r}")
    try:
        loaded = load_peft_weights(str(folder), device="cpu")
    except Exception as error:
        # Damaged files raise errors of many libraries.
        raise ValueError(
            f"adapter {path!r} could not be loaded: {why(error)}"
        ) from error
    tensors = {name: t.float().numpy() for name, t in loaded.items()}
    for name, values in tensors.items():
        if not loaded[name].is_floating_point():
            raise ValueError(
                f"adapter must have tensors of floating-point numbers, got {path!r}, "
                f"where {name} is {loaded[name].dtype}"
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"adapter must have finite tensors, got {path!r}, where {name} holds "
                "NaN or infinity"
            )
    return tensors


def _check_tensors(tensors: Arrays, ours: Arrays, path: str) -> None:
    """Check names, and the shapes of all but the ranks."""
    missing = [name for name in ours if name not in tensors]
    unknown = [name for name in tensors if name not in ours]
    if missing or unknown:
        parts = [
            f"{what} {len(names)} (such as {printable(names[0], 120)})"
            for what, names in (("lacks", missing), ("has further", unknown))
            if names
        ]
        raise ValueError(
            "adapter must have the tensors of the run's adapter, got "
            f"{path!r}, which {' and '.join(parts)}: model, task, head, lora-targets "
            "and saved-modules must be those that it was trained with"
        )
    ranks = {m.a.name: 0 for m in lora_modules(Layout.of(ours))}
    ranks |= {m.b.name: 1 for m in lora_modules(Layout.of(ours))}
    for name, array in tensors.items():
        theirs, wanted = list(array.shape), list(ours[name].shape)
        if name in ranks and len(theirs) == len(wanted):
            theirs[ranks[name]] = wanted[ranks[name]] = 0
        if theirs != wanted:
            raise ValueError(
                f"adapter must have {name} of shape {ours[name].shape}, as in the "
                f"run's model, got {path!r} with {array.shape}"
            )


def _check_settings(
    saved: Mapping[str, Any], tensors: Arrays, config: RunConfig, path: str
) -> None:
    try:
        ranks = [module.rank for module in lora_modules(Layout.of(tensors))]
    except ValueError as error:
        raise ValueError(f"adapter {path!r} is damaged: {why(error)}") from error
    if min(ranks) < 1:
        raise ValueError(f"adapter must have ranks of at least 1, got {path!r} with 0")
    for key, theirs, given in (
        ("lora-rank", max(ranks), config.lora_rank),
        ("lora-alpha", saved.get("lora_alpha"), config.lora_alpha),
    ):
        if theirs != given:
            raise ValueError(
                f"{key} must be {theirs!r}, as in the adapter {path!r}, got {given!r}"
            )


def _at_the_runs_scale(
    saved: Mapping[str, Any], tensors: Arrays, ours: Arrays, config: RunConfig
) -> Arrays:
    """Return tensors of the run's rank whose B A is the same at the run's scale."""
    arrays = dict(tensors)
    scale = config.adapter_scale
    patterns = saved.get("alpha_pattern") or {}
    for module in lora_modules(Layout.of(tensors)):
        a, b, rank = module.a.name, module.b.name, module.rank
        name = module.name.removeprefix(_PREFIX)
        alpha = patterns.get(get_pattern_key(list(patterns), name), saved["lora_alpha"])
        theirs = alpha / (sqrt(rank) if saved.get("use_rslora") else rank)
        arrays[a] = np.concatenate([tensors[a], ours[a][rank:]], axis=0)
        factor = np.float32(theirs / scale)
        wide = [(0, 0)] * tensors[b].ndim
        wide[1] = (0, config.lora_rank - rank)
        arrays[b] = np.pad(tensors[b] * factor, wide)
    return arrays


def _say_other_model(saved: Mapping[str, Any], config: RunConfig) -> None:
    """Log it if the adapter names another model: its tensors may fit all the same."""
    theirs = str(saved.get("base_model_name_or_path") or "")
    names = [text.rstrip("/").rpartition("/")[2] for text in (theirs, config.model)]
    if theirs and config.model and names[0] != names[1]:
        log(
            WARNING,
            "The adapter was trained on model %s, and the run's model is %s",
            printable(theirs, 120),
            printable(config.model, 120),
        )
