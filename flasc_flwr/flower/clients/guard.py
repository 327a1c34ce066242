"""Guard: which updates are accepted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from flasc_flwr.core.clipping import clip_to_norm, l2_norm
from flasc_flwr.core.outliers import RATIO
from flasc_flwr.core.ranges import choice, integer, number
from flasc_flwr.core.settings import check, setting
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
        A round with fewer valid updates is skipped.
    max_norm : float
        Largest L2 norm of an update; 0 is unlimited.
    norm_action : str
        What happens to a larger one, one of `NORM_ACTIONS`: it is rejected, or scaled
        down to the bound.
    norm_ratio : float
        Largest L2 norm of an update, in multiples of the median of the round's updates;
        a larger one is rejected. Needs 5 updates. 0 is unlimited.
    max_examples : float
        Largest number of examples that a client may report.
    examples_ratio : float
        Largest weight of a client in a mean, in multiples of the cohort's median: a
        larger one is reduced to that. Needs 5 clients. 0 is unlimited.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    min_replies: int = setting(
        1,
        integer(1),
        "a round with fewer valid replies is skipped",
        unit="replies",
        may_change=True,
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
    norm_ratio: float = setting(
        10.0,
        RATIO,
        "largest L2 norm of an update, in multiples of the median of the round's "
        "updates, once there are 5; larger ones are rejected; 0 is unlimited; private "
        "runs ignore it",
        key="update-norm-ratio",
    )
    max_examples: float = setting(
        1e7,
        number("(0, inf)"),
        "largest number of examples that a client may report",
        unit="examples",
    )
    examples_ratio: float = setting(
        10.0,
        RATIO,
        "largest weight of a client in a mean, in multiples of the cohort's median, "
        "once there are 5 clients; larger ones are reduced to it; 0 is unlimited",
        key="max-examples-ratio",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def require_examples(self, examples: float) -> None:
        """Check a client's number of examples.

        Raises
        ------
        RejectedReplyError
            If it is out of bounds.
        """
        if examples > self.max_examples:
            raise RejectedReplyError(
                f"number of examples must be <= {self.max_examples:.6g}, got "
                f"{examples:.6g}"
            )

    def let_in(self, update: SparseVector, examples: float) -> SparseVector:
        """Return an update that is within the bounds on each client.

        Raises
        ------
        RejectedReplyError
            If it is out of bounds and not clipped.
        """
        self.require_examples(examples)
        norm = l2_norm(update.values)
        if not isfinite(norm):
            raise RejectedReplyError(f"norm of the update must be finite, got {norm}")
        if not self.max_norm or norm <= self.max_norm:
            return update
        if self.norm_action == "reject":
            raise RejectedReplyError(
                f"norm of the update must be <= {self.max_norm:.6g}, got {norm:.6g}"
            )
        return replace(update, values=clip_to_norm(update.values, self.max_norm))
