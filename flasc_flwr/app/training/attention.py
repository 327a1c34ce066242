"""The linear modules of attention, found by the structure of a model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_NAME = re.compile(r"(attn|attentions?)$", re.IGNORECASE)
"""What modules of attention are called: ``attn``, ``self_attn``, ``SelfAttention``."""

_CLASS = re.compile(r"Attention$")

_NOT_OF_TOKENS = re.compile(r"position|relative|rel_pos|router")


def linear_names(model: nn.Module, without: Collection[str] = ()) -> list[str]:
    """Return the full names of the linear modules, in the model's order.

    Parameters
    ----------
    model : nn.Module
        The model.
    without : Collection[str]
        Children of the model that are left out.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.partition(".")[0] not in without
    ]


def attention_names(model: PreTrainedModel, linear: list[str]) -> list[str]:
    """Return names that select the linear modules of attention and no others.

    A module belongs to attention if it lies in one that is called so (its name ends in
    ``attn`` or ``attention``) or whose class is (``...Attention``). Of a model for
    texts and images, only the part for texts counts, if it has one. Layers that project
    positions or choose experts are left out.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    linear : list[str]
        Full names of the linear modules that may be selected.

    Returns
    -------
    list[str]
        The shortest ends of names, such as ``Wqkv`` and ``attn.Wo``; may be empty.
    """
    modules = dict(model.named_modules())
    part = _text_part(model)
    chosen = {
        name
        for name in linear
        if name.startswith(part)
        and not _NOT_OF_TOKENS.search(name)
        # torch's module of attention has a forward pass that ignores its children.
        and not any(
            isinstance(modules[above], nn.MultiheadAttention)
            for above in _ancestors(name)
        )
        and any(
            _NAME.search(above) or _CLASS.search(type(modules[above]).__name__)
            for above in _ancestors(name)
        )
    }
    others = [name for name in modules if name not in chosen]
    ends = (_shortest_end(name, others) for name in linear if name in chosen)
    return list(dict.fromkeys(ends))


def matches(name: str, end: str) -> bool:
    """Whether PEFT selects the module `name` by `end`."""
    return name == end or name.endswith(f".{end}")


def _ancestors(name: str) -> Iterator[str]:
    """Yield the full names of the modules that contain a module, outermost first."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _shortest_end(name: str, others: list[str]) -> str:
    """Return the shortest end of a name that selects none of the others."""
    parts = name.split(".")
    for start in reversed(range(len(parts))):
        end = ".".join(parts[start:])
        if not any(matches(other, end) for other in others):
            return end
    return name


def _text_part(model: PreTrainedModel) -> str:
    """Return the prefix of names in a larger model's part for texts; else ''."""
    config = model.config.get_text_config()
    if config is model.config:
        return ""
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel) and module.config is config:
            return f"{name}."
    return ""
