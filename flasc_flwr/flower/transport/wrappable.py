"""Checks of SparseTransport's arguments: a strategy, and names of arrays."""

from __future__ import annotations

from typing import Any

from flwr.serverapp.strategy import Strategy

from flasc_flwr.core.printable import printable

_OLD_API = ("flwr.server.", "flwr.simulation.", "flwr.client.")
_PAGE = "docs/plug-in.md, section 'Apps on Flower's old API'"


def require_strategy(inner: Any, sends_sparse: tuple[type, ...]) -> None:
    """Check that an argument is a strategy that can be wrapped.

    Parameters
    ----------
    inner : Any
        The argument.
    sends_sparse : tuple[type, ...]
        Strategies that send sparse messages themselves.

    Raises
    ------
    ValueError
        If it is not; the message says what to do.
    """
    kind = inner if isinstance(inner, type) else type(inner)
    if any(parent.__module__.startswith(_OLD_API) for parent in kind.__mro__):
        raise ValueError(
            "inner must be a strategy of Flower's Message API "
            f"(flwr.serverapp.strategy), got {kind.__name__} of the old API "
            f"({kind.__module__}): {_PAGE} shows how to change the app"
        )
    if isinstance(inner, type):
        raise ValueError(
            f"inner must be a strategy, got the class {kind.__name__}: "
            f"make one, such as {kind.__name__}()"
        )
    if isinstance(inner, sends_sparse):
        raise ValueError(
            "inner must be a strategy that does not send sparse messages itself, "
            f"got {kind.__name__}: it needs no SparseTransport"
        )
    if not isinstance(inner, Strategy):
        raise ValueError(
            "inner must be a strategy such as flwr.serverapp.strategy.FedAvg(), "
            f"got {printable(repr(inner), 100)}"
        )


def require_names(key: str, given: Any) -> tuple[str, ...]:
    """Return names or shell patterns of arrays, from a list of them.

    Raises
    ------
    ValueError
        If it is not a list of names.
    """
    names = () if isinstance(given, str) else given
    try:
        names = tuple(names)
    except TypeError:
        names = (None,)
    if isinstance(given, str) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(
            f"{key} must be a list of names of arrays, such as ['head.*'], "
            f"got {printable(repr(given), 100)}"
        )
    return names
