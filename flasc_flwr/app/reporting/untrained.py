"""An adapter of which nothing that was trained is left: it is the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Role

_SAID = {
    Role.B: ("lora_B of the adapter", "init = 'shared-seed' or quota = 'tensor'"),
    Role.CORE: ("cores of the adapter", "quota = 'tensor' or a head-density"),
    Role.OTHER: ("tensors of the tuner", "quota = 'tensor' or a head-density"),
}
"""What begins at zero, and is the whole adapter while it is; and what helps."""


def untrained(
    arrays: Mapping[str, NDArray[Any]], roles: Mapping[str, Role] | None = None
) -> str | None:
    """Return why an adapter is the base model, and what helps; None if it is not.

    Every B begins at zero, as do cores and what tuners change. Clients receive the
    largest entries only. In a run of few rounds they may all be of A, which begins at
    random, or of the head.

    Parameters
    ----------
    arrays : Mapping[str, NDArray]
        The adapter as clients receive it.
    roles : Mapping[str, Role], optional
        Roles of the tensors where their names do not say.
    """
    layout = Layout.of(dict(arrays), roles)
    names: dict[Role, list[str]] = {role: [] for role in _SAID}
    for tensor in layout.tensors:
        if tensor.role in names:
            names[tensor.role].append(tensor.name)
    role = next((role for role in _SAID if names[role]), None)
    if role is None or any(np.any(arrays[name]) for name in names[role]):
        return None
    what, helps = _SAID[role]
    beside = {t.role for t in layout.tensors} - {role, Role.A}
    return (
        f"all {len(names[role])} {what} are zero: it is the base model"
        f"{', but for its head' if beside else ''}. None of their entries was among "
        f"the largest, which are sent; run more rounds, or set {helps}"
    )
