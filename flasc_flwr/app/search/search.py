"""Density and rank search: raise one or the other, whichever is worth its bytes.

From a small configuration on, pairs of short runs are compared at equal bytes: one with
twice the rank, one with twice the density. The better one is the next configuration,
until neither fits what a round may cost.

The idea is that of FLASC-Search (Kuo et al., arXiv 2406.05233), whose exact procedure
is not public to us. This procedure is the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from flasc_flwr.app.search.candidates import Candidate, Limits, Outcome, Result

_SAME = 1e-12

Probe = Callable[
    [Sequence[Candidate], Sequence[int]], Mapping[Candidate, Sequence[Result]]
]
"""Makes a short run of each candidate with each seed, and gives their results."""


class SearchError(ValueError):
    """A search that cannot be made: why, and what to change."""


@dataclass(frozen=True)
class Step:
    """One step of a search.

    Attributes
    ----------
    at : Candidate
        Where it began.
    outcomes : Mapping[str, Outcome]
        What was measured, by what was raised. A candidate that costs too much, or has
        none beside it, has the first seed alone.
    chosen : str, optional
        What is raised: ``rank`` or ``density``; ``start`` in the first step, which
        measures the start; None where the search ends.
    reason : str
        Why.
    """

    at: Candidate
    outcomes: Mapping[str, Outcome]
    chosen: str | None
    reason: str

    @property
    def next(self) -> Candidate:
        """Where the search is after it."""
        return self.outcomes[self.chosen].candidate if self.chosen else self.at

    def to_dict(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return asdict(self)


def search(
    start: Candidate, limits: Limits, seeds: Sequence[int], probe: Probe
) -> Iterator[Step]:
    """Yield the steps of a search: the start, raises, and one that raises nothing.

    What it does depends on the results alone: with a probe that remembers them, it can
    be broken off and made again, also with another budget.

    Parameters
    ----------
    start : Candidate
        Where it begins.
    limits : Limits
        How far it may go.
    seeds : Sequence[int]
        Seeds of the short runs. Accuracies are compared by their means; the first seed
        tells the costs.
    probe : Probe
        Makes the short runs.

    Raises
    ------
    SearchError
        If the start is beyond the limits.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise SearchError(
            f"seeds are {list(seeds)}, allowed are one or more, each once"
        )
    if start.rank > limits.max_rank:
        raise SearchError(
            f"start-rank {start.rank} is above max-rank {limits.max_rank}"
        )
    outcome = Outcome(start, tuple(probe([start], seeds[:1])[start]))
    told = f"costs {outcome.megabytes:.4g} MB a round of one client"
    if outcome.megabytes > limits.megabytes:
        raise SearchError(
            f"the start, {start}, {told} already, the budget is "
            f"{limits.megabytes:.4g}: start lower, or allow more"
        )
    yield Step(start, {"start": outcome}, "start", f"the start {told}")
    refused: list[Outcome] = []
    current = start
    while True:
        step = _step(current, limits, seeds, probe, refused)
        yield step
        if step.chosen is None:
            return
        current = step.next


def _step(
    current: Candidate,
    limits: Limits,
    seeds: Sequence[int],
    probe: Probe,
    refused: list[Outcome],
) -> Step:
    """Make one step; what costs too much is added to `refused`."""
    options = limits.raised(current)
    # Costs rise with both: what lies beyond a refused one need not be run.
    new = {k: c for k, c in options.items() if not _beyond(c, refused)}
    why = [f"{c} is beyond the budget" for k, c in options.items() if k not in new]
    first = probe(list(new.values()), seeds[:1]) if new else {}
    outcomes = {k: Outcome(c, tuple(first[c])) for k, c in new.items()}
    fits = {k: o for k, o in outcomes.items() if o.megabytes <= limits.megabytes}
    for kind, outcome in outcomes.items():
        if kind not in fits:
            refused.append(outcome)
            why.append(
                f"{outcome.candidate} costs {outcome.megabytes:.4g} MB a round of one "
                f"client, the budget is {limits.megabytes:.4g}"
            )
    if len(fits) == 2 and seeds[1:]:
        more = probe([o.candidate for o in fits.values()], seeds[1:])
        fits = {
            k: Outcome(o.candidate, (*o.results, *more[o.candidate]))
            for k, o in fits.items()
        }
        outcomes |= fits
    if len(fits) == 2:
        chosen, reason = decide(fits["rank"], fits["density"])
        return Step(current, outcomes, chosen, reason)
    if not fits:
        ends = "; ".join(why) or "rank and density are the highest allowed"
        return Step(current, outcomes, None, f"nothing is left to raise: {ends}")
    (chosen,) = fits
    only = "; ".join(why) or "the other is the highest allowed"
    return Step(current, outcomes, chosen, f"{chosen} alone can be raised: {only}")


def decide(rank: Outcome, density: Outcome) -> tuple[str, str]:
    """Return which of two candidates is better, and why.

    The higher mean accuracy wins; of equal ones what costs less a round, and of equal
    costs the density, which asks for no more memory.
    """
    pairs = zip(rank.results, density.results, strict=True)
    gaps = [higher.accuracy - denser.accuracy for higher, denser in pairs]
    gap = fmean(gaps)
    told = (
        f"{rank.candidate} has accuracy {rank.accuracy:.4f}, "
        f"{density.candidate} {density.accuracy:.4f}"
    )
    if len(gaps) > 1:
        error = stdev(gaps) / len(gaps) ** 0.5
        told += f" (means of {len(gaps)} seeds, standard error {error:.4f})"
    if abs(gap) > _SAME:
        return ("rank" if gap > 0 else "density"), told
    cheaper = "rank" if rank.megabytes < density.megabytes else "density"
    return cheaper, f"{told}: equal, {cheaper} costs no more a round"


def most_accurate(steps: Sequence[Step], limits: Limits) -> Outcome:
    """Return the most accurate of all within the budget, by the first seed.

    It need not be where a search ends: at equal bytes a small configuration trains
    more rounds, and wins where the runs are short.
    """
    measured = [outcome for step in steps for outcome in step.outcomes.values()]
    within = [o for o in measured if o.megabytes <= limits.megabytes]
    return max(within, key=lambda outcome: outcome.results[0].accuracy)


def _beyond(candidate: Candidate, refused: Sequence[Outcome]) -> bool:
    return any(
        o.candidate.rank <= candidate.rank and o.candidate.density <= candidate.density
        for o in refused
    )
