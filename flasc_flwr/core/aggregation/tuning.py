"""Numbers that some aggregation rules need."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Numbers that some aggregation rules need.

    Attributes
    ----------
    energy : float
        Fraction of the mean product's squared norm that an SVD keeps, in (0, 1].
    ridge : float
        How firmly a corrected factor is held to its average, at least 0.

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
    ridge: float = setting(
        0.001,
        number("[0, inf)"),
        "how firmly a factor is held to what it was before its correction",
        key="aggregation-ridge",
        used_by='aggregation = "fair" and "alternating"',
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)
