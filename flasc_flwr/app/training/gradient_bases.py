"""Bases of cores from a first gradient: what one client measures (Fed-SB).

With G the gradient of the loss with respect to the full weight of a module, summed over
some of the client's examples, ``D = -sign(G)`` is AdamW's first step, and ``U S V^T``
its truncated SVD. No step is made: the frozen weights stay as they are, and need no
gradients of their own. ``G = sum_t g_t x_t^T`` over the inputs x_t of the module and
the gradients g_t at its output, which also works where weights are packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.core_bases import sides, weight_bases
from flasc_flwr.app.training.cores import factor_names, layers_of
from flasc_flwr.app.training.device import (
    autocast,
    memory_advice,
    on_device,
    training_attention,
)
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.local import loss_of
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.recomputing import without_cache
from flasc_flwr.app.training.score import Score
from flasc_flwr.core.layout import Arrays

MEASURED_EXAMPLES = 50
"""Examples of a client that its gradient is summed over: as many as in Fed-SB's code,
which has one gradient of the whole data set."""

_MOST_ENTRIES = 1 << 26
"""Entries of the gradients that are held at once (256 MiB), if no single one has more;
the examples are passed through the model once for each such group of modules."""


def gradient_bases(
    model: Model,
    examples: Examples,
    config: RunConfig,
    score: Score,
    ranks: Mapping[str, int],
) -> Arrays:
    """Return ``B = U S`` and ``A = V^T`` of each module that has a core.

    Parameters
    ----------
    model : Model
        The model, with cores of zeros. It is left as it was.
    examples : Examples
        The examples to sum over.
    config : RunConfig
        Batch size and precision.
    score : Score
        Says what the loss is a mean over.
    ranks : Mapping[str, int]
        Number of singular vectors, by the core's name.

    Raises
    ------
    ValueError
        If there are no examples, or a gradient is not finite.
    """
    if len(examples) == 0:
        raise ValueError("this client has no training examples")
    bases: Arrays = {}
    for group in _groups(layers_of(model)):
        for name, gradient in _gradients(model, group, examples, config, score).items():
            values = gradient.cpu().numpy()
            if not np.isfinite(values).all():  # the sign of infinity is
                raise ValueError("the first gradient must be finite")
            b, a = weight_bases(-np.sign(values), ranks[name])
            for key, factor in zip(factor_names(name), (b, a), strict=True):
                bases[key] = np.ascontiguousarray(factor)
    return bases


def ranks_of(model: Model, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return how many singular vectors of each module a message wants, by the core.

    Raises
    ------
    ValueError
        If it has no B (out, r) or A (r, in) of a module, or not of one rank that the
        module can have.
    """
    ranks = {}
    for name, layer in layers_of(model).items():
        out, inputs = sides(layer)
        shapes = [arrays[n].shape if n in arrays else () for n in factor_names(name)]
        rank = (shapes[0] or (0,))[-1]
        if shapes != [(out, rank), (rank, inputs)] or not 0 < rank <= min(out, inputs):
            raise ValueError(
                f"B and A of {name!r} must have shapes ({out}, r) and (r, {inputs}) "
                f"of one rank, got {shapes[0]} and {shapes[1]}"
            )
        ranks[name] = rank
    return ranks


def require_bases(bases: Mapping[str, NDArray[Any]], config: RunConfig) -> None:
    """Check that bases have come with an adapter that needs them.

    Raises
    ------
    ValueError
        If they have not.
    """
    if config.compose().measures_bases and not bases:
        raise ValueError(
            "the message must have the bases of the cores, or name those that this "
            "device holds: core-basis 'gradient' needs them, got none"
        )


def _groups(layers: Mapping[str, LoraLayer]) -> Iterator[dict[str, LoraLayer]]:
    """Yield the modules in groups whose weights are small enough together."""
    group: dict[str, LoraLayer] = {}
    entries = 0
    for name, layer in layers.items():
        out, inputs = sides(layer)
        if group and entries + out * inputs > _MOST_ENTRIES:
            yield group
            group, entries = {}, 0
        group[name] = layer
        entries += out * inputs
    if group:
        yield group


def _gradients(
    model: Model,
    layers: Mapping[str, LoraLayer],
    examples: Examples,
    config: RunConfig,
    score: Score,
) -> dict[str, Tensor]:
    """Return the gradients of the summed loss, shape (out, in), of some modules."""
    found: dict[str, Tensor] = {}
    handles = [
        cast(nn.Module, layer).register_forward_hook(partial(_watch, found, name))
        for name, layer in layers.items()
    ]
    model.eval()
    try:
        with (
            memory_advice(),
            without_cache(model),
            training_attention(config, model),
        ):
            for chosen in torch.split(torch.arange(len(examples)), config.batch_size):
                batch = on_device(examples.batch(chosen, training=True), model)
                with autocast(config, model):
                    loss, count = loss_of(model, batch, score)
                (loss * count.losses).backward()  # type: ignore[no-untyped-call]
    finally:
        _remove(handles)
        model.zero_grad(set_to_none=True)
    return found


def _watch(
    found: dict[str, Tensor],
    name: str,
    layer: LoraLayer,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    """Add up the gradient of a module's weight, once that of its output is known."""
    received = inputs[0].detach()

    def add(gradient: Tensor) -> None:
        rows = gradient.detach().flatten(0, -2).float()
        product = rows.T @ received.flatten(0, -2).float()
        found[name] = found[name] + product if name in found else product

    # Where activations are recomputed, the first pass may be without gradients.
    if output.requires_grad:
        output.register_hook(add)  # type: ignore[no-untyped-call]


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
