"""Optimizer steps of the server vector: all of it in chunks, or only some parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Vector, chunks
from flasc_flwr.core.optimizers import OptimizerState, ServerOptimizer


def step_chunks(
    optimizer: ServerOptimizer, vector: Vector, update: Vector, state: OptimizerState
) -> tuple[Vector, OptimizerState]:
    """Step the whole vector, chunk by chunk.

    Equivalent to ``optimizer.step``, as entries step independently of each other, with
    temporaries of the size of a chunk.

    Parameters
    ----------
    optimizer : ServerOptimizer
        The optimizer.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    update : NDArray[np.float32], shape (N,)
        The mean update: the negative gradient.
    state : OptimizerState
        The optimizer's state.

    Returns
    -------
    NDArray[np.float32], shape (N,), and OptimizerState
        The new server vector and state.
    """
    stepped = np.empty_like(vector)
    moments = {name: np.empty_like(moment) for name, moment in state.moments.items()}
    for chunk in chunks(len(vector)):
        own = {name: moment[chunk] for name, moment in state.moments.items()}
        stepped[chunk], after = optimizer.step(
            vector[chunk], -update[chunk], OptimizerState(state.step, own)
        )
        for name, moment in after.moments.items():
            moments[name][chunk] = moment
    return stepped, OptimizerState(state.step + 1, moments)


def step_parts(
    optimizer: ServerOptimizer,
    parts: Mapping[str, NDArray[np.int64]],
    vector: Vector,
    update: Vector,
    state: OptimizerState,
) -> tuple[Vector, OptimizerState]:
    """Step some parts of the vector, each like a separate parameter.

    All other entries and their moments stay unchanged: weight decay and momentum would
    move entries without a gradient, too. Each part counts its steps, as PyTorch's
    optimizers do for each parameter, for bias correction. A decaying learning rate
    follows the steps of the run, so that it is the same for all parts.

    Parameters
    ----------
    optimizer : ServerOptimizer
        The optimizer.
    parts : Mapping[str, NDArray[np.int64]]
        Positions of each part, by a name that is the same in every step.
    vector : NDArray[np.float32], shape (N,)
        The server vector.
    update : NDArray[np.float32], shape (N,)
        The mean update: the negative gradient.
    state : OptimizerState
        The state that the previous call returned.

    Returns
    -------
    NDArray[np.float32], shape (N,), and OptimizerState
        The new server vector and state.
    """
    vector = vector.copy()
    moments = {name: moment.copy() for name, moment in state.moments.items()}
    steps = dict(state.part_steps)
    for part, places in parts.items():
        own = {name: moment[places] for name, moment in moments.items()}
        stepped, after = optimizer.step(
            vector[places],
            -update[places],
            OptimizerState(steps.get(part, 0), own, run_steps=state.step),
        )
        vector[places] = stepped
        steps[part] = after.step
        for name, moment in after.moments.items():
            moments[name][places] = moment
    return vector, OptimizerState(state.step + 1, moments, steps)
