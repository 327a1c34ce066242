"""Small cores in a model: trained heads between the frozen factors of a PEFT LoRA.

PEFT's ``lora_A`` and ``lora_B`` hold the fixed bases. Between them the heads multiply
what ``lora_A`` returns. Everything else is that of a LoRA model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.core_bases import bases_of, sides
from flasc_flwr.core.cores import as_factors, cut_core
from flasc_flwr.core.layout import Arrays

_NAME = "default"
"""The adapter that has cores; others of the model are plain LoRA."""


class Core(nn.Linear):
    """A frozen ``lora_A``, whose output the heads of a core multiply.

    Parameters
    ----------
    a : Tensor, shape (R, in)
        The basis.
    size : int
        r, rows and columns of a head.
    scaled : bool
        Whether each head has a scale that is trained with it (RAVAN).
    """

    def __init__(self, a: Tensor, size: int, *, scaled: bool) -> None:
        rank, inputs = a.shape
        super().__init__(inputs, rank, bias=False)
        self.weight = nn.Parameter(a, requires_grad=False)
        self.full = (rank, size)
        self.scaled = scaled
        self.heads = nn.Parameter(torch.zeros(rank, size))
        # PEFT warns of vectors among the factors.
        self.scales = nn.Parameter(torch.ones(rank // size, 1), requires_grad=scaled)

    @property
    def scaled_heads(self) -> Tensor:
        """The heads times their scales, as one stack: shape (R', r)."""
        rank, size = self.heads.shape
        return self.heads * self.scales[: rank // size].repeat_interleave(size, 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``H_g A_g x`` of all heads, shape (..., R); 0 for heads that lack."""
        rank, size = self.heads.shape
        reduced = super().forward(inputs)
        each = reduced[..., :rank].reshape(*reduced.shape[:-1], rank // size, size)
        heads = self.scaled_heads.view(rank // size, size, size)
        multiplied = torch.einsum("...gj,gij->...gi", each, heads.to(each.dtype))
        missing = self.full[0] - rank
        return nn.functional.pad(multiplied.flatten(-2), (0, missing))


def put_into(model: PeftModel, config: RunConfig) -> None:
    """Fix the factors of a new LoRA model to their bases, and train cores between them.

    Cores begin at zero: the model computes what its backbone does.

    Raises
    ------
    ValueError
        If a module is not linear or too small for the rank, or the bases cannot be
        computed from its weights.
    """
    method = config.compose()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    _require_linear(layers, config)
    found = {}
    size = config.lora_rank // method.core_heads
    for name, (b, a) in bases_of(layers, config).items():
        layer = layers[name]
        layer.lora_A[_NAME] = Core(a, size, scaled=method.core_heads > 1)
        layer.lora_B[_NAME].weight = nn.Parameter(b, requires_grad=False)
        found[f"{name}.lora_core"] = layer
    _CORED[model] = found


def _require_linear(layers: Mapping[str, LoraLayer], config: RunConfig) -> None:
    for name, layer in layers.items():
        if _NAME not in layer.lora_A or not isinstance(layer.lora_A[_NAME], nn.Linear):
            raise ValueError(
                f"lora-targets must name linear modules with method {config.method!r}, "
                f"got {name!r}"
            )
        least = min(sides(layer))
        if config.lora_rank > least:
            raise ValueError(
                f"lora-rank must be <= {least} with method {config.method!r}, the "
                f"smaller side of {name!r}, got {config.lora_rank}"
            )


def layers_of(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the modules that have cores, by the core's name in the layout."""
    return dict(_CORED.get(model, {}))


def sides_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (out, in) of the modules that have cores, by the core's name."""
    return {name: sides(layer) for name, layer in layers_of(model).items()}


def factor_names(core: str) -> tuple[str, str]:
    """Return PEFT's names of B and A of the module that has a core."""
    module = core.removesuffix(".lora_core")
    return f"{module}.lora_B.weight", f"{module}.lora_A.weight"


def fixed_factors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the bases of all cores: every B, and every A, by the core's name."""
    found = _cores(model)
    b = {n: cast(nn.Linear, _CORED[model][n].lora_B[_NAME]).weight for n in found}
    return b, {name: core.weight for name, core in found.items()}


def empty_cores(model: nn.Module) -> Arrays:
    """Return cores of zeros, of the full size."""
    return {
        name: np.zeros(core.full, np.float32) for name, core in _cores(model).items()
    }


@torch.no_grad()
def write_bases(model: nn.Module, bases: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite the bases of all cores; components that some lack become zero.

    Parameters
    ----------
    model : nn.Module
        The model.
    bases : Mapping[str, NDArray]
        B of shape (out, r) and A of shape (r, in) by PEFT's names; none: all zero.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape does not fit.
    """
    places: dict[str, tuple[Tensor, int]] = {}
    for name, core in _cores(model).items():
        b, a = factor_names(name)
        layer = _CORED[model][name]
        places[b] = cast(nn.Linear, layer.lora_B[_NAME]).weight, 1
        places[a] = core.weight, 0
    if bases and (odd := sorted(places.keys() ^ bases.keys())):
        raise ValueError(f"bases must have the names of the model's, differ in {odd}")
    for key, array in bases.items():
        tensor, axis = places[key]
        wanted = list(tensor.shape)
        if array.ndim == 2:
            wanted[axis] = min(wanted[axis], array.shape[axis])
        if list(array.shape) != wanted:
            raise ValueError(
                f"bases {key!r} must fit into shape {tuple(tensor.shape)}, got "
                f"{array.shape}"
            )
    for key, (tensor, axis) in places.items():
        tensor.zero_()
        if key in bases:
            own = torch.from_numpy(np.array(bases[key]))
            tensor.narrow(axis, 0, own.shape[axis]).copy_(own)


_CORED: WeakKeyDictionary[nn.Module, dict[str, LoraLayer]] = WeakKeyDictionary()
"""The modules of each model that have a core, by the core's name in the layout."""


def _cores(model: nn.Module) -> dict[str, Core]:
    """Return the cores by name; none if another adapter is active."""
    if not isinstance(model, PeftModel) or model.active_adapter != _NAME:
        return {}
    layers = _CORED.get(model, {})
    return {n: cast(Core, layer.lora_A[_NAME]) for n, layer in layers.items()}


def in_place_of_factors(
    model: PeftModel, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return PEFT's tensors of an adapter with its cores in place of its factors."""
    found = _cores(model)
    if not found:
        return dict(tensors)
    beside = {name: t for name, t in tensors.items() if ".lora_" not in name}
    return {name: core.heads for name, core in found.items()} | beside


def trained_scales(model: nn.Module) -> list[nn.Parameter]:
    """Return the scales of heads that are trained, and do not travel."""
    return [c.scales for c in _cores(model).values() if c.scales.requires_grad]


def with_scales(model: nn.Module, arrays: Arrays) -> Arrays:
    """Return the adapter with each head times its scale: what RAVAN's clients send."""
    scaled = {n: core.scaled_heads for n, core in _cores(model).items()}
    return arrays | {n: t.detach().cpu().numpy().copy() for n, t in scaled.items()}


@torch.no_grad()
def resize(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Give the cores the sizes of some arrays, and their heads the scale 1.

    Returns
    -------
    bool
        Whether the model has cores.
    """
    found = _cores(model)
    for name, core in found.items():
        shape = arrays[name].shape if name in arrays else ()
        # Other shapes are refused where the arrays are written.
        if len(shape) == 2 and shape == cut_core(core.full, max(1, shape[0])):
            core.scales.fill_(1.0)
            if shape != tuple(core.heads.shape):
                core.heads.data = core.heads.new_zeros(shape)
                core.heads.grad = None
    return bool(found)


def freeze_bases(model: PeftModel) -> None:
    """Freeze the bases again, which PEFT makes trainable with their adapter."""
    for name, core in _cores(model).items():
        core.weight.requires_grad_(False)
        core.scales.requires_grad_(core.scaled)
        cast(nn.Linear, _CORED[model][name].lora_B[_NAME]).weight.requires_grad_(False)


@torch.no_grad()
def as_lora(model: PeftModel) -> Arrays | None:
    """Return an adapter with cores as one of LoRA factors; None if it has no cores.

    Its head is as the model has it now: an export puts one in two factors together.
    """
    found = _cores(model)
    if not found:
        return None
    saved: dict[str, Tensor] = get_peft_model_state_dict(
        model, save_embedding_layers=False, adapter_name=_NAME
    )
    factors: Arrays = {
        name: t.cpu().numpy() for name, t in saved.items() if ".lora_" not in name
    }
    for name, core in found.items():
        layer = _CORED[model][name]
        b, a = (
            cast(Tensor, factor[_NAME].weight).cpu().numpy()
            for factor in (layer.lora_B, layer.lora_A)
        )
        columns, rows = as_factors(b, core.scaled_heads.cpu().numpy(), a)
        b_name, a_name = factor_names(name)
        factors[b_name] = columns.astype(b.dtype)
        factors[a_name] = rows.astype(a.dtype)
    return factors
