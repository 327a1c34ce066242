"""Guard: which updates are let in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flasc_flwr.core.clipping import clip_to_norm, l2_norm
from flasc_flwr.core.ranges import choice, integer, number
from flasc_flwr.core.sparsity import SparseVector

NORM_ACTIONS = ("reject", "clip")


class RejectedReplyError(ValueError):
    """A reply that cannot be used, and why."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Bounds on what one reply may do to a round.

    Attributes
    ----------
    min_replies : int
        A round with fewer updates that can be used is skipped.
    max_norm : float
        Largest L2 norm of an update; 0 is no bound.
    norm_action : str
        What becomes of a larger one, one of `NORM_ACTIONS`: it is rejected, or scaled
        down to the bound.
    max_examples : float
        Largest number of examples that a client may say it has.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    min_replies: int = 1
    max_norm: float = 0.0
    norm_action: str = "reject"
    max_examples: float = 1e7

    def __post_init__(self) -> None:
        """Check the ranges."""
        integer(1).require("min-replies", self.min_replies)
        number("[0, inf)").require("max-update-norm", self.max_norm)
        choice(*NORM_ACTIONS).require("update-norm-action", self.norm_action)
        number("(0, inf)").require("max-examples", self.max_examples)

    def let_in(self, update: SparseVector, examples: float) -> SparseVector:
        """Return an update that is within bounds.

        Raises
        ------
        RejectedReplyError
            If it is not, and is not to be clipped.
        """
        if examples > self.max_examples:
            raise RejectedReplyError(
                f"number of examples must be <= {self.max_examples:.6g}, got "
                f"{examples:.6g}"
            )
        norm = l2_norm(update.values)
        if not self.max_norm or norm <= self.max_norm:
            return update
        if self.norm_action == "reject":
            raise RejectedReplyError(
                f"norm of the update must be <= {self.max_norm:.6g}, got {norm:.6g}"
            )
        return replace(update, values=clip_to_norm(update.values, self.max_norm))
