"""Greedy search of rank and density under a byte budget.

Starting from a small configuration, each step compares two short runs that spend the
same bytes: one with twice the rank, one with twice the density. The more accurate one
is the next configuration. The search ends when neither fits the budget of a round.

The idea is that of FLASC-Search (Kuo et al., arXiv 2406.05233), whose exact procedure
is not published. This procedure is the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from flasc_flwr.app.search.candidates import Candidate, Limits, Measured, Result

_SAME = 1e-12

Probe = Callable[
    [Sequence[Candidate], Sequence[int]], Mapping[Candidate, Sequence[Result]]
]
"""Makes a short run of each candidate with each seed; returns the results."""


class SearchError(ValueError):
    """The search is not possible; the message says why and what to change."""


@dataclass(frozen=True)
class Step:
    """One step of a search.

    Attributes
    ----------
    at : Candidate
        Configuration before the step.
    outcomes : Mapping[str, Measured]
        The candidates measured, by what they raise (``rank``, ``density``). One that
        exceeds the budget, or has no competitor, is measured with the first seed only.
    chosen : str, optional
        What is raised: ``rank`` or ``density``; ``start`` in the first step, which
        measures the start; None in the last step.
    reason : str
        Why.
    """

    at: Candidate
    outcomes: Mapping[str, Measured]
    chosen: str | None
    reason: str

    @property
    def next(self) -> Candidate:
        """Configuration after the step."""
        return self.outcomes[self.chosen].candidate if self.chosen else self.at

    def to_dict(self) -> dict[str, Any]:
        """Return the step as a JSON object."""
        return asdict(self)


def search(
    start: Candidate, limits: Limits, seeds: Sequence[int], probe: Probe
) -> Iterator[Step]:
    """Yield the steps of a search: the start, each raise, and a last without a raise.

    The steps depend only on the results. With a probe that keeps results, a search can
    be interrupted and repeated, also with a larger budget, without repeating runs.

    Parameters
    ----------
    start : Candidate
        First configuration.
    limits : Limits
        Highest rank, and budget.
    seeds : Sequence[int]
        Seeds of the short runs. Mean accuracies are compared; the cost is that of the
        first seed.
    probe : Probe
        Makes the short runs.

    Raises
    ------
    SearchError
        If the start exceeds the limits, or the seeds are not distinct.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise SearchError(
            f"seeds must be one or more distinct numbers, got {list(seeds)}"
        )
    if start.rank > limits.max_rank:
        raise SearchError(
            f"start-rank must be at most max-rank {limits.max_rank}, got {start.rank}"
        )
    measured = Measured(start, tuple(probe([start], seeds[:1])[start]))
    cost = f"costs {measured.megabytes:.4g} MB per round and client"
    if measured.megabytes > limits.megabytes:
        raise SearchError(
            f"the start ({start}) {cost}, above the budget of "
            f"{limits.megabytes:.4g} MB: lower the start or raise the budget"
        )
    yield Step(start, {"start": measured}, "start", f"the start {cost}")
    refused: list[Measured] = []
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
    refused: list[Measured],
) -> Step:
    """Make one step; candidates that exceed the budget are added to `refused`."""
    options = limits.raised(current)
    # Costs rise with both: a candidate beyond a refused one need not be run.
    new = {k: c for k, c in options.items() if not _beyond(c, refused)}
    why = [f"{c} exceeds the budget" for k, c in options.items() if k not in new]
    first = probe(list(new.values()), seeds[:1]) if new else {}
    outcomes = {k: Measured(c, tuple(first[c])) for k, c in new.items()}
    fits = {k: m for k, m in outcomes.items() if m.megabytes <= limits.megabytes}
    for kind, measured in outcomes.items():
        if kind not in fits:
            refused.append(measured)
            why.append(
                f"{measured.candidate} costs {measured.megabytes:.4g} MB per round and "
                f"client, above the budget of {limits.megabytes:.4g} MB"
            )
    if len(fits) == 2 and seeds[1:]:
        more = probe([m.candidate for m in fits.values()], seeds[1:])
        fits = {
            k: Measured(m.candidate, (*m.results, *more[m.candidate]))
            for k, m in fits.items()
        }
        outcomes |= fits
    if len(fits) == 2:
        chosen, reason = decide(fits["rank"], fits["density"])
        return Step(current, outcomes, chosen, reason)
    if not fits:
        ends = "; ".join(why) or "rank and density are at their maximum"
        return Step(current, outcomes, None, f"nothing left to raise: {ends}")
    (chosen,) = fits
    only = "; ".join(why) or "the other is at its maximum"
    return Step(current, outcomes, chosen, f"only {chosen} can be raised: {only}")


def decide(rank: Measured, density: Measured) -> tuple[str, str]:
    """Return which of two candidates is better, and why.

    The higher mean accuracy wins; if equal, the lower cost per round; if that is equal
    too, the density, which needs no more memory.
    """
    pairs = zip(rank.results, density.results, strict=True)
    gaps = [higher.accuracy - denser.accuracy for higher, denser in pairs]
    gap = fmean(gaps)
    reason = (
        f"{rank.candidate} has accuracy {rank.accuracy:.4f}, "
        f"{density.candidate} {density.accuracy:.4f}"
    )
    if len(gaps) > 1:
        error = stdev(gaps) / len(gaps) ** 0.5
        reason += f" (means of {len(gaps)} seeds, standard error {error:.4f})"
    if abs(gap) > _SAME:
        return ("rank" if gap > 0 else "density"), reason
    cheaper = "rank" if rank.megabytes < density.megabytes else "density"
    return cheaper, f"{reason}: equal, {cheaper} costs no more per round"


def most_accurate(steps: Sequence[Step], limits: Limits) -> Measured:
    """Return the most accurate candidate within the budget, by the first seed.

    It need not be the last: at equal bytes a small configuration trains more rounds,
    which wins in short runs.
    """
    found = [measured for step in steps for measured in step.outcomes.values()]
    within = [m for m in found if m.megabytes <= limits.megabytes]
    return max(within, key=lambda measured: measured.results[0].accuracy)


def _beyond(candidate: Candidate, refused: Sequence[Measured]) -> bool:
    return any(
        m.candidate.rank <= candidate.rank and m.candidate.density <= candidate.density
        for m in refused
    )
