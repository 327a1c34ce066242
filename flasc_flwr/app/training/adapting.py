"""A backbone made trainable: an adapter is added, and the rest is frozen."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.optional import without
from flasc_flwr.app.training import cores
from flasc_flwr.app.training.lora import (
    Model,
    adapter_tensors,
    keep_starts,
    mark_head,
    read_tensors,
)
from flasc_flwr.app.training.low_rank_head import factor_head
from flasc_flwr.app.training.merging import require_untied
from flasc_flwr.app.training.tuners.build import roles_of, with_tuner
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.method import Tunes
from flasc_flwr.core.printable import why

_MAGNITUDE = "lora_magnitude_vector"


def make_trainable(
    backbone: PreTrainedModel,
    config: RunConfig,
    *,
    target_modules: str | list[str],
    head: list[str],
) -> Model:
    """Make the parameters trainable that the method tunes, and freeze the others.

    A LoRA adapter is initialised from the run's seed.

    Parameters
    ----------
    backbone : PreTrainedModel
        The model; it becomes part of the result.
    config : RunConfig
        Method, rank, alpha, dropout and seed.
    target_modules : str or list[str]
        Modules to adapt: their last names, or a regular expression for full names.
    head : list[str]
        Modules that are trained fully, with or without factors.
    """
    tunes = config.compose().tunes
    if config.head_rank:
        factor_head(backbone, head, config.head_rank)
    if config.peft_config:
        tuned = with_tuner(backbone, config, target_modules, head)
        named, roles = adapter_tensors(tuned), roles_of(tuned, adapter_tensors(tuned))
        kept = set(Role) if config.roles.head is not None else {Role.OTHER}
        keep_starts(tuned, [name for name in named if roles[name] in kept])
        return tuned
    if tunes.adapts:
        return _with_adapter(backbone, config, target_modules, head)
    of_head = []
    for name, parameter in backbone.named_parameters():
        if in_head := any(name.startswith(f"{module}.") for module in head):
            of_head.append(name)
        parameter.requires_grad_(tunes == Tunes.FULL or in_head)
    if config.roles or config.head_format != "auto":
        # Without these settings all tensors travel alike, and need no roles.
        mark_head(backbone, of_head)
    if config.roles.head is not None:
        keep_starts(backbone, of_head)
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
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=target_modules,
        modules_to_save=head,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT uses the old name of a property of transformers 5.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        # GPT-2's weights are transposed; PEFT handles it with a warning.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")
        torch.manual_seed(config.seed)
        try:
            with without("bitsandbytes"):
                model = get_peft_model(backbone, lora)
        except ValueError as error:
            raise ValueError(
                f"lora-targets must name modules that PEFT can adapt: {why(error)}"
            ) from error
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PeftModel, got {type(model).__name__}")
    if config.compose().merges:
        require_untied(model, config.method)
    if config.compose().tunes == Tunes.CORES:
        cores.put_into(model, config)
    if config.use_dora:
        keep_starts(model, [n for n in adapter_tensors(model) if _MAGNITUDE in n])
    if config.roles.head is not None:
        layout = Layout.of(read_tensors(model))
        keep_starts(model, [t.name for t in layout.tensors if t.role is Role.HEAD])
    return model
