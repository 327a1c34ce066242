"""The federated parameters of a model: read as arrays, and written back."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from copy import copy
from math import sqrt
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.optional import without
from flasc_flwr.app.training import cores
from flasc_flwr.app.training.low_rank_head import factor_head
from flasc_flwr.app.training.tuners.build import roles_of, tuner_of, with_tuner
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.method import Tunes
from flasc_flwr.core.printable import why
from flasc_flwr.core.ranks import rank_of

Model = PeftModel | PreTrainedModel
"""A backbone with a LoRA adapter, or one whose parameters are trained directly."""


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
        _keep_starts(tuned, [name for name in named if roles[name] in kept])
        return tuned
    if tunes.adapts:
        return _with_adapter(backbone, config, target_modules, head)
    for name, parameter in backbone.named_parameters():
        in_head = any(name.startswith(f"{module}.") for module in head)
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
    if config.compose().tunes == Tunes.CORES:
        cores.put_into(model, config)
    if config.use_dora:
        _keep_starts(model, [n for n in adapter_tensors(model) if _MAGNITUDE in n])
    if config.roles.head is not None:
        layout = Layout.of(read_tensors(model))
        _keep_starts(model, [t.name for t in layout.tensors if t.role is Role.HEAD])
    return model


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


def _named_by_peft(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, save_embedding_layers=False, adapter_name=model.active_adapter
    )
    tensors = cores.in_place_of_factors(model, tensors)
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


_MAGNITUDE = "lora_magnitude_vector"

_STARTS: WeakKeyDictionary[Model, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""Tensors of each model that travel as differences, before training: DoRA's magnitudes,
which are the lengths of the weights' rows; all of another tuner's; and a head with a
density of its own."""


def _keep_starts(model: Model, names: Iterable[str]) -> None:
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
    arrays = cores.with_scales(model, read_tensors(model))
    for name, start in _STARTS.get(model, {}).items():
        arrays[name] -= start.cpu().numpy()
    return arrays


def read_tensors(model: Model) -> dict[str, NDArray[Any]]:
    """Return copies of the federated tensors as PEFT saves them, by name."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in adapter_tensors(model).items()
    }


def adapter_roles(model: Model) -> dict[str, Role] | None:
    """Return the roles of the tensors where their names do not say; else None."""
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
            tensors[name].copy_(torch.from_numpy(array))


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
