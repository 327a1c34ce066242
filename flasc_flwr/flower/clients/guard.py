"""Guard: which updates are accepted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flasc_flwr.core.clipping import clipped, norm_of
from flasc_flwr.core.ranges import choice, integer, number
from flasc_flwr.core.settings import check, setting

if TYPE_CHECKING:
    from flasc_flwr.flower.clients.replies import Update

NORM_ACTIONS = ("reject", "clip")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Bounds on what one reply may do to a round.

    Attributes
    ----------
    min_replies : int
        A round with fewer valid updates is skipped.
    max_norm : float
        Largest L2 norm of an update; 0 is unlimited.
    norm_action : str
        What happens to a larger one, one of `NORM_ACTIONS`: it is rejected, or scaled
        down to the bound.
    max_examples : float
        Largest number of examples that a client may report.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    min_replies: int = setting(
        1, integer(1), "a round with fewer valid replies is skipped", unit="replies"
    )
    max_norm: float = setting(
        0.0,
        number("[0, inf)"),
        "largest L2 norm of an update; 0 is unlimited",
        key="max-update-norm",
    )
    norm_action: str = setting(
        "reject",
        choice(*NORM_ACTIONS),
        "what happens to an update with a larger norm",
        key="update-norm-action",
    )
    max_examples: float = setting(
        1e7,
        number("(0, inf)"),
        "largest number of examples that a client may report",
        unit="examples",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def let_in(self, update: Update) -> Update:
        """Return the update, within bounds.

        Raises
        ------
        RejectedReplyError
            If it is out of bounds and not clipped.
        """
        # The run config reads the settings above, without Flower.
        from flasc_flwr.flower.clients.replies import RejectedReplyError

        if update.examples > self.max_examples:
            raise RejectedReplyError(
                f"it reports {update.examples:.6g} examples, allowed are up to "
                f"{self.max_examples:.6g}"
            )
        norm = norm_of(update.sparse)
        if not self.max_norm or norm <= self.max_norm:
            return update
        if self.norm_action == "reject":
            raise RejectedReplyError(
                f"its update has norm {norm:.6g}, allowed is up to {self.max_norm:.6g}"
            )
        return replace(update, sparse=clipped(update.sparse, self.max_norm))
