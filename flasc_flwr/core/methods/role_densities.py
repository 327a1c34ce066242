"""Densities of their own for the roles of an adapter: the factors, the head, others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import floor

import numpy as np

from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.settings import check, setting, settings_of
from flasc_flwr.core.sparsity import DENSITY, Positions

_BOTH = "of which at most that fraction travels, each way; auto competes with the rest"


@dataclass(frozen=True, kw_only=True)
class RoleDensities:
    """Fractions of the entries of a role that travel, whatever the other roles need.

    A role without one (None) competes with all others like it for the run's density.

    Attributes
    ----------
    a, b, head, other : float, optional
        Densities in (0, 1]: of every A, of every B, of the saved modules, and of what
        is none of these.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    a: float | None = setting(
        None, DENSITY, f"entries of A, {_BOTH}", key="a-density", off="auto"
    )
    b: float | None = setting(
        None, DENSITY, f"entries of B, {_BOTH}", key="b-density", off="auto"
    )
    head: float | None = setting(
        None,
        DENSITY,
        f"entries of the head (the saved modules), {_BOTH}",
        key="head-density",
        off="auto",
    )
    other: float | None = setting(
        None,
        DENSITY,
        f"entries of other tensors, such as DoRA's, {_BOTH}",
        key="other-density",
        off="auto",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    @classmethod
    def of(cls, densities: list[float]) -> RoleDensities:
        """Return those of a list in the order of the fields, where 0 is None.

        Raises
        ------
        ValueError
            If it has another length, or one is out of range.
        """
        names = [each.name for each in fields(cls)]
        if len(densities) != len(names):
            raise ValueError(f"densities must be {len(names)}, got {len(densities)}")
        return cls(**dict(zip(names, (d or None for d in densities), strict=True)))

    def to_list(self) -> list[float]:
        """Return them in the order of the fields, with 0 for None."""
        return [getattr(self, each.name) or 0.0 for each in fields(self)]

    def __bool__(self) -> bool:
        """Return whether any role has one."""
        return any(self.to_list())

    @property
    def highest(self) -> float:
        """The highest of them; 0 if there is none."""
        return max(self.to_list())

    def at(self, role: Role) -> float | None:
        """Return the density of a role; cores have none of their own."""
        density: float | None = getattr(self, role.value.lower(), None)
        return density

    def require_tensors(self, layout: Layout) -> None:
        """Check that every role with a density has tensors in the layout.

        Raises
        ------
        ValueError
            If one has none: its density would have no effect.
        """
        keys = {name: each.key for name, each in settings_of(self).items()}
        there = {tensor.role.value.lower() for tensor in layout.tensors}
        for name, key in keys.items():
            density = getattr(self, name)
            if density is not None and name not in there:
                instead = " or ".join(keys[name] for name in keys if name in there)
                raise ValueError(
                    f"{key} must be 'auto' where the adapter has no such tensors, got "
                    f"{density:g}; use {instead or 'download-density'} instead"
                )

    def groups(self, layout: Layout) -> Iterator[tuple[Positions, float | None]]:
        """Yield groups of entries that compete, each with its own density if any."""
        places: dict[Role | None, list[Positions]] = {}
        for tensor, place in layout.slices():
            role = None if self.at(tensor.role) is None else tensor.role
            entries = np.arange(place.start, place.stop)
            places.setdefault(role, []).append(entries)
        for role, found in places.items():
            together = np.concatenate(found)
            if len(together):
                yield together, None if role is None else self.at(role)

    def most(self, layout: Layout, density: float) -> int:
        """Return the most entries that are kept at a density of the other roles."""
        return sum(
            max(1, floor(len(places) * (density if own is None else own)))
            for places, own in self.groups(layout)
        )


NONE = RoleDensities()
"""No role has a density of its own."""
