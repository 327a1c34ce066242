"""Steps of the whole server vector: block by block, or of some parts alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector, blocks
from flasc_flwr.core.optimizers import OptimizerState, ServerOptimizer


def step_blocks(
    optimizer: ServerOptimizer, vector: Vector, update: Vector, state: OptimizerState
) -> tuple[Vector, OptimizerState]:
    """Step the whole vector, block by block.

    The same as ``optimizer.step``, as every entry steps by itself; but what it computes
    on the way is as large as a block, and not many times the adapter.

    Parameters
    ----------
    optimizer : ServerOptimizer
        What steps.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    update : NDArray[np.float32], shape (N,)
        Where it is to go: the negative of the gradient.
    state : OptimizerState
        As for `optimizer`.
    """
    stepped = np.empty_like(vector)
    moments = {name: np.empty_like(moment) for name, moment in state.moments.items()}
    for block in blocks(len(vector)):
        own = {name: moment[block] for name, moment in state.moments.items()}
        stepped[block], after = optimizer.step(
            vector[block], -update[block], OptimizerState(state.step, own)
        )
        for name, moment in after.moments.items():
            moments[name][block] = moment
    return stepped, OptimizerState(state.step + 1, moments)


def step_parts(
    optimizer: ServerOptimizer,
    parts: Mapping[str, NDArray[np.int64]],
    vector: Vector,
    update: Vector,
    state: OptimizerState,
) -> tuple[Vector, OptimizerState]:
    """Step some parts of the vector, each as if it were a parameter of its own.

    All else stays as it is, moments and all: weight decay and momentum would move
    entries without a gradient, too. A part counts its own steps, as PyTorch's
    optimizers do for each parameter, which bias correction needs.

    Parameters
    ----------
    optimizer : ServerOptimizer
        What steps.
    parts : Mapping[str, NDArray[np.int64]]
        Positions of each part, by a name that stays the same from step to step.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    update : NDArray[np.float32], shape (N,)
        Where it is to go: the negative of the gradient.
    state : OptimizerState
        As this function returned it.
    """
    vector = vector.copy()
    moments = {name: moment.copy() for name, moment in state.moments.items()}
    steps = dict(state.part_steps)
    for part, places in parts.items():
        own = {name: moment[places] for name, moment in moments.items()}
        stepped, after = optimizer.step(
            vector[places],
            -update[places],
            OptimizerState(steps.get(part, 0), own),
        )
        vector[places] = stepped
        steps[part] = after.step
        for name, moment in after.moments.items():
            moments[name][places] = moment
    return vector, OptimizerState(state.step + 1, moments, steps)
