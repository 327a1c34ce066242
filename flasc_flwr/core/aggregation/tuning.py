"""Numbers that some aggregation rules need."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting

RIDGE = number("[0, inf)")
RIDGE_HELP = (
    "how firmly a factor is held to what it was before its correction; auto depends on "
    "the rule"
)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Numbers that some aggregation rules need.

    Attributes
    ----------
    energy : float
        Fraction of the mean product's squared norm that an SVD keeps, in (0, 1].
    ridge : float, optional
        How firmly a factor is held to what it was before its correction, at least 0.
        Default: the rule's own.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    energy: float = setting(
        0.99,
        number("(0, 1]"),
        "fraction of the mean product's squared norm that is kept, in as few "
        "components as possible",
        key="aggregation-energy",
        used_by='aggregation = "florist"',
    )
    ridge: float | None = setting(None, RIDGE, RIDGE_HELP, key="aggregation-ridge")

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)
