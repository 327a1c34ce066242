"""The server optimizer's step, which is kept only if all that comes of it is finite."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from flasc_flwr.core.aggregation import Aggregate
from flasc_flwr.core.finite import require_finite
from flasc_flwr.core.merged import merge, require_finite_merged
from flasc_flwr.core.optimizers import ServerOptimizer
from flasc_flwr.core.sparsity import Positions
from flasc_flwr.core.stepping import step_chunks, step_parts
from flasc_flwr.flower.state.run_state import RunState


@np.errstate(over="ignore", invalid="ignore")  # what comes of it is checked
def checked_step(
    state: RunState,
    optimizer: ServerOptimizer,
    parts: Mapping[str, Positions] | None,
    aggregate: Aggregate,
) -> None:
    """Step along the cohort's aggregate, the negative gradient.

    Parameters
    ----------
    state : RunState
        The state to change.
    optimizer : ServerOptimizer
        Steps the vector.
    parts : Mapping[str, NDArray[np.int64]] or None
        Positions of each part that steps; None: all entries do.
    aggregate : Aggregate
        The mean update, and products to merge into the backbone.

    Raises
    ------
    NotFiniteError
        If the aggregate, or what the step makes of it, is not finite. The state is then
        as it was.
    """
    require_finite("the averaged updates", aggregate.update)
    step = (
        partial(step_parts, optimizer, parts)
        if parts
        else partial(step_chunks, optimizer)
    )
    vector, stepped = step(state.vector, aggregate.update, state.optimizer)
    require_finite("the stepped weights", vector)
    require_finite("the optimizer's moments", *stepped.moments.values())
    merged = merge(state.merged, aggregate.terms)
    require_finite_merged(merged, aggregate.terms)
    state.vector, state.optimizer, state.merged = vector, stepped, merged
