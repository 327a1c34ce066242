"""An adapter in which nothing of B is left: it computes what the base model does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Role


def untrained(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """Return why an adapter is the base model, and what helps; None if it is not.

    Every B begins at zero, and clients receive the largest entries only. In a run of
    few rounds no entry of B is larger than those of A, which begin at random.

    Parameters
    ----------
    arrays : Mapping[str, NDArray]
        The adapter as clients receive it.
    """
    layout = Layout.of(dict(arrays))
    factors = [t.name for t in layout.tensors if t.role is Role.B]
    if not factors or any(np.any(arrays[name]) for name in factors):
        return None
    rest = [t for t in layout.tensors if t.role not in (Role.A, Role.B)]
    beside = ", but for its head" if rest else ""
    return (
        f"all {len(factors)} lora_B of the adapter are zero: it is the base model"
        f"{beside}. No entry of B was among the largest, which are sent; run more "
        "rounds, or set init = 'shared-seed' or quota = 'tensor'"
    )
