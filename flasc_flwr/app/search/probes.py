"""Probes: the short runs of a search, and the files that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import tomli_w

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_folder import write_json, write_text
from flasc_flwr.app.reporting.runs import read_history
from flasc_flwr.app.runs.jobs import Job, run_jobs
from flasc_flwr.app.search.candidates import Candidate, Limits, Result
from flasc_flwr.app.search.search import SearchError, Step, most_accurate, search
from flasc_flwr.core.ranges import integer, number

_ENDLESS = 1_000_000
"""Rounds of a probe: its bytes end it."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Makes short runs that all spend the same message bytes.

    Attributes
    ----------
    base : Mapping[str, Any]
        Settings of the run config that all share.
    clients : int
        Number of clients.
    megabytes : float
        What each run spends: message bytes of all clients, both ways, in 10^6.
    into : Path
        Where their folders go; those that are there are not made again.
    app : Path
        Folder of the app.
    at_once : int
        How many run side by side.
    on_end : Callable[[str, Path], None], optional
        Told the name and the folder of each run that ends.

    Raises
    ------
    ConfigError
        If the settings cannot be run.
    ValueError
        If they fix what is searched, or a number is out of range.
    """

    base: Mapping[str, Any]
    clients: int
    megabytes: float
    into: Path
    app: Path
    at_once: int = 1
    on_end: Callable[[str, Path], None] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        number("(0, inf)").require("probe-megabytes", self.megabytes)
        integer(1).require("clients", self.clients)
        integer(1).require("at-once", self.at_once)
        require_searchable(RunConfig.parse(self.base))

    def __call__(
        self, candidates: Sequence[Candidate], seeds: Sequence[int]
    ) -> dict[Candidate, list[Result]]:
        """Make the runs that are not there yet, and return the results of all.

        Raises
        ------
        JobError
            If runs failed.
        SearchError
            If the bytes do not pay a round.
        """
        names = {
            (candidate, seed): f"r{candidate.rank}-d{candidate.density:g}-s{seed}"
            for candidate in candidates
            for seed in seeds
        }
        jobs = {
            name: Job(settings=self._settings(*which), clients=self.clients)
            for which, name in names.items()
        }
        folders = run_jobs(
            jobs, self.into, app=self.app, at_once=self.at_once, on_end=self.on_end
        )
        return {
            candidate: [
                result_of(read_history(folders[names[candidate, seed]]), self.megabytes)
                for seed in seeds
            ]
            for candidate in candidates
        }

    def _settings(self, candidate: Candidate, seed: int) -> dict[str, Any]:
        shared = configured(self.base, candidate)
        dropped = ("stop-", "output-dir", "trackers")
        return {
            **{k: v for k, v in shared.items() if not k.startswith(dropped)},
            "seed": seed,
            "num-server-rounds": _ENDLESS,
            "evaluate-every": 1,
            "export-every": 0,
            "stop-megabytes": self.megabytes,
        }


def configured(base: Mapping[str, Any], candidate: Candidate) -> dict[str, Any]:
    """Return the settings of a run config with a candidate in them.

    The adapter's scale, alpha / rank, stays as it is: a higher rank is more capacity,
    not a smaller step.
    """
    config = RunConfig.parse(base)
    scale = config.lora_alpha / config.lora_rank
    return {
        **{key: value for key, value in base.items() if key != "resume"},
        "lora-rank": candidate.rank,
        "lora-alpha": scale * candidate.rank,
        "download-density": candidate.density,
        "upload-density": candidate.density,
    }


def require_searchable(config: RunConfig) -> None:
    """See whether rank and densities are a run config's to set.

    Raises
    ------
    ValueError
        If they are not.
    """
    method = config.compose()
    if method.download_density is not None or method.upload_density is not None:
        raise ValueError(
            f"method {config.method!r} sets a density itself: a search needs one that "
            "takes both, such as 'flasc'"
        )
    if method.tiers != "none" or method.rank_assignment != "own":
        raise ValueError(
            f"method {config.method!r} gives devices unequal budgets (tiers "
            f"{method.tiers!r}, rank-assignment {method.rank_assignment!r}): a search "
            "needs tiers 'none' and rank-assignment 'own'"
        )
    if config.adapter:
        raise ValueError(f"adapter {config.adapter!r} has a rank: allowed is ''")


def result_of(history: Sequence[Mapping[str, Any]], megabytes: float) -> Result:
    """Return what a run reached for some bytes, and what a round of a client cost.

    Parameters
    ----------
    history : Sequence[Mapping[str, Any]]
        The rows of its history.
    megabytes : float
        Message bytes, both ways, in 10^6. The accuracy is that of the last evaluation
        before more had been sent; the cost is of the dearest round, a mean over its
        replies.

    Raises
    ------
    SearchError
        If they do not pay a round that was evaluated.
    """
    sent = accumulate(message_bytes(row) for row in history)
    within = [
        row
        for row, spent in zip(history, sent, strict=True)
        if row["round"] and row["accuracy"] is not None and spent <= 1e6 * megabytes
    ]
    costs = [message_bytes(r) / r["replies"] for r in history if r["replies"]]
    if not within or not costs:
        least = sum(message_bytes(row) for row in history[:2]) / 1e6
        raise SearchError(
            f"probe-megabytes is {megabytes:.4g}, which does not pay one round of all "
            f"clients ({least:.4g} MB): allow many times more"
        )
    return Result(within[-1]["accuracy"], max(costs) / 1e6)


def message_bytes(row: Mapping[str, Any]) -> int:
    """Return the message bytes of a row of the history, both ways."""
    return int(row["message_bytes_down"] + row["message_bytes_up"])


def search_into(
    folder: Path,
    probes: Probes,
    *,
    start: Candidate,
    limits: Limits,
    seeds: Sequence[int],
    on_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Search, and leave ``search.json`` and the profile ``best.toml`` in a folder.

    Both are written anew after every step, so that a search that was broken off has
    left the best so far.

    Returns
    -------
    list[Step]
        All steps; the last has the configuration where the search ended.

    Raises
    ------
    SearchError
        If the start is beyond the limits, or the probes are too short.
    JobError
        If runs failed.
    """
    steps: list[Step] = []
    for step in search(start, limits, seeds, probes):
        steps.append(step)
        best = configured(probes.base, step.next)
        RunConfig.parse(best)
        write_text(folder / "best.toml", _profile(step.next, best))
        write_json(
            folder / "search.json",
            {
                "base": dict(probes.base),
                "clients": probes.clients,
                "probe_megabytes": probes.megabytes,
                "seeds": list(seeds),
                "start": asdict(start),
                "limits": asdict(limits),
                "steps": [one.to_dict() for one in steps],
                "best": asdict(step.next),
                "most_accurate": asdict(most_accurate(steps, limits)),
                "ended": None if step.chosen else step.reason,
            },
        )
        if on_step:
            on_step(step)
    return steps


def _profile(candidate: Candidate, settings: Mapping[str, Any]) -> str:
    head = f"# Found by a search of rank and density, see search.json: {candidate}.\n"
    return head + tomli_w.dumps(settings)
