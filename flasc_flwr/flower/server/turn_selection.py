"""What the downloads of one turn select, and the supports that stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flasc_flwr.core.fitting import Select
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.selection import fixed_support
from flasc_flwr.core.ranks import Truncation, rank_of
from flasc_flwr.flower.state.run_state import RunState


class TurnSelection:
    """Selects entries of the server vector, as a method does in one turn.

    Supports that stay are those of the state once a device is sent one. Where a density
    has the same support in every turn, it is selected from one vector, whenever a
    client first needs it: otherwise it would depend on who was drawn before.

    Parameters
    ----------
    method : Method
        Selects.
    state : RunState
        The server vector, and the supports that stay.
    turn : int
        The turn.
    cut : Callable[[int or None], Truncation]
        Returns the adapter cut to a rank.
    init_seed : int or None
        Seed of the initial values that entries are counted from; None for zeros.
    steady : bool
        Whether a budget's density is the same in every turn.
    """

    def __init__(
        self,
        method: Method,
        state: RunState,
        turn: int,
        *,
        cut: Callable[[int | None], Truncation],
        init_seed: int | None,
        steady: bool,
    ) -> None:
        self._state = state
        self._cut = cut
        self._init_seed = init_seed
        # With those of downloads that are only looked at.
        self._supports = dict(state.supports)
        if turn <= method.dense_rounds:  # every entry, of every role
            scoring = replace(method.scoring, roles=RoleDensities())
            method = replace(method, scoring=scoring)
        elif steady and method.download is fixed_support:
            first = state.selected_from
            state.selected_from = state.vector if first is None else first
        self._method = method

    def select(self, layout: Layout, vector: Vector, most: float) -> Select:
        """Return what selects entries of a vector, at a density up to `most`."""
        cut, select = self._cut(rank_of(layout)), self._method.selection
        if (then := self._state.selected_from) is not None:
            # Adds the support that stays, if this is the first client with it.
            first, weights = self._counted(cut, then), cut.truncate(then)
            select(layout, first, most, self._supports, weights)(most)
        weights = cut.truncate(self._state.vector)
        return select(layout, vector, most, self._supports, weights)

    def keep(self, size: int, density: float) -> None:
        """Keep the support of an adapter's size and a density, which a device has."""
        if (key := (size, density)) in self._supports:
            self._state.supports[key] = self._supports[key]

    def _counted(self, cut: Truncation, vector: Vector) -> Vector:
        """Return a vector cut to a rank, counted from the initial values."""
        taken = cut.truncate(vector)
        if self._init_seed is None:
            return taken
        return taken - seeded_factors(cut.layout, self._init_seed)
