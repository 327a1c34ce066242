"""What a tuner adds to a model and does not train, which every device must rebuild."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_SUMS = 3
"""Weighted sums in a sketch."""

_TOLERANCE = 1e-3
"""How far sketches may differ, relatively: machines round random numbers and singular
vectors differently in the last digits."""


def frozen_state(model: nn.Module, known: set[int]) -> dict[str, torch.Tensor]:
    """Return the tensors that a model has beside its trainable ones, by their places.

    These are parameters, buffers, and tensors that tuners keep in plain attributes,
    such as positions in a weight.

    Parameters
    ----------
    model : nn.Module
        The model.
    known : set[int]
        Ids of tensors that are left out: those of the backbone.
    """
    return {
        name: tensor
        for module, inner in model.named_modules()
        for name, tensor in _tensors(module, vars(inner))
        if id(tensor) not in known and not tensor.requires_grad
    }


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in a value, which may be nested."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "_modules":
                yield from _tensors(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _tensors(f"{name}.{number}", inner)


def difference(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> str | None:
    """Return the name of a tensor that two states do not share; None if all do."""
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            return name
        a, b = _numbers(one[name]), _numbers(other[name])
        if a.shape != b.shape or not torch.equal(a, b):
            return name
    return None


def sketch(tensors: Mapping[str, torch.Tensor]) -> list[float]:
    """Return a few numbers that tell two states apart: weighted sums of all entries.

    Returns
    -------
    list[float]
        One number for each of 3 fixed series of weights between -1 and 1, and the root
        of the sum of squares.
    """
    sums, squares = torch.zeros(_SUMS, dtype=torch.float64), 0.0
    for number, name in enumerate(sorted(tensors)):
        values = _numbers(tensors[name]).flatten().double().cpu()
        places = torch.arange(len(values), dtype=torch.float64) + 1 + number
        for series in range(_SUMS):
            sums[series] += values @ torch.sin(places * (series + 1) * 0.7)
        squares += float(values @ values)
    return [*map(float, sums), squares**0.5]


def alike(one: list[float], other: list[float]) -> bool:
    """Return whether two sketches are of the same state, up to rounding."""
    if len(one) != len(other) or not one:
        return False
    scale = max(one[-1], other[-1])
    return all(
        abs(a - b) <= _TOLERANCE * scale for a, b in zip(one, other, strict=True)
    )


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's numbers, also of one that is stored as a sparse matrix."""
    return (tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()).clone()
