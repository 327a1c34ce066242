"""What a client may change of what it received."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.sparsity import Positions


@dataclass(frozen=True)
class Trainable:
    """What a client may change of what it received.

    Attributes
    ----------
    roles : frozenset[Role]
        Roles of the tensors it may change.
    support_only : bool
        Whether it may change only entries that were downloaded.
    """

    roles: frozenset[Role] = frozenset(Role)
    support_only: bool = False

    @property
    def everything(self) -> bool:
        """Whether nothing is frozen."""
        return not self.support_only and len(self.roles) == len(Role)

    def parts(self, layout: Layout) -> dict[str, Positions] | None:
        """Return the positions of each role that may change; None if all may."""
        if len(self.roles) == len(Role):
            return None
        role_of = np.concatenate([np.full(t.size, t.role) for t in layout.tensors])
        return {
            role.value: np.flatnonzero(role_of == role).astype(np.int64)
            for role in sorted(self.roles)
        }

    def entries(
        self, layout: Layout, support: Positions | None = None
    ) -> NDArray[np.bool_]:
        """Return which entries may change, shape (N,).

        Parameters
        ----------
        layout : Layout
            Layout of the adapter.
        support : NDArray[np.int64], optional
            Positions that were downloaded; required for `support_only`.
        """
        entries = np.ones(layout.size, bool)
        if self.support_only and support is not None:
            entries[:] = False
            entries[support] = True
        for tensor, place in layout.slices():
            if tensor.role not in self.roles:
                entries[place] = False
        return entries


ALL = Trainable()
SUPPORT = Trainable(support_only=True)
NOT_A = Trainable(frozenset(Role) - {Role.A})
NOT_B = Trainable(frozenset(Role) - {Role.B})
