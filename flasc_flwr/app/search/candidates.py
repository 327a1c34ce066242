"""What a search compares: configurations, their measured results, and limits."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from flasc_flwr.core.methods.budget import RANK
from flasc_flwr.core.ranges import number
from flasc_flwr.core.sparsity import DENSITY


@dataclass(frozen=True, order=True)
class Candidate:
    """A configuration: a rank, and one density for both directions.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    rank: int
    density: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        RANK.require("rank", self.rank)
        DENSITY.require("density", self.density)

    def __str__(self) -> str:
        """Return it as text."""
        return f"rank {self.rank}, density {self.density:g}"


@dataclass(frozen=True)
class Result:
    """The result of one short run.

    Attributes
    ----------
    accuracy : float
        Test accuracy of the adapter as clients receive it, when the bytes were spent.
    megabytes : float
        Cost of one round of one client, both ways, in 10^6 bytes.
    """

    accuracy: float
    megabytes: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a search may go.

    Attributes
    ----------
    max_rank : int
        Highest rank.
    megabytes : float
        Budget of one round of one client, both ways, in 10^6 bytes.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    max_rank: int
    megabytes: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        RANK.require("max-rank", self.max_rank)
        number("(0, inf)").require("per-round-megabytes", self.megabytes)

    def raised(self, candidate: Candidate) -> dict[str, Candidate]:
        """Return the next candidates: with the ``rank`` or the ``density`` doubled."""
        higher = min(2 * candidate.rank, self.max_rank)
        denser = min(2 * candidate.density, 1.0)
        found = {}
        if higher > candidate.rank:
            found["rank"] = Candidate(higher, candidate.density)
        if denser > candidate.density:
            found["density"] = Candidate(candidate.rank, denser)
        return found


@dataclass(frozen=True)
class Measured:
    """A candidate and its results, one per seed."""

    candidate: Candidate
    results: tuple[Result, ...]

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the seeds."""
        return fmean(result.accuracy for result in self.results)

    @property
    def megabytes(self) -> float:
        """Cost of one round of one client, from the first seed."""
        return self.results[0].megabytes
