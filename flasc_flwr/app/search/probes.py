"""Probes: the short runs of a search, and the files that the search writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import tomli_w

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.reporting.run_folder import write_json, write_text
from flasc_flwr.app.runs.jobs import Job, run_jobs
from flasc_flwr.app.search.candidates import Candidate, Limits, Result
from flasc_flwr.app.search.search import SearchError, Step, most_accurate, search
from flasc_flwr.core.ranges import integer, number

_ENDLESS = 1_000_000
"""Rounds of a probe. The byte limit ends it first."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Makes short runs that all spend the same message bytes.

    Attributes
    ----------
    base : Mapping[str, Any]
        Run-config settings shared by all runs.
    clients : int
        Number of clients.
    megabytes : float
        Message bytes that each run spends, all clients, both ways, in 10^6.
    into : Path
        Output directory. Finished runs in it are not repeated.
    app : Path
        Folder of the app.
    at_once : int
        Number of runs at a time.
    on_end : Callable[[str, Path], None], optional
        Called with the name and the run folder of each run that finishes.

    Raises
    ------
    ConfigError
        If the settings are not valid.
    ValueError
        If they leave rank or density no choice, or a number is out of range.
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
        """Make the runs that have not finished yet, and return all results.

        Raises
        ------
        JobError
            If runs failed.
        SearchError
            If the bytes do not suffice for one round.
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
    """Return run-config settings with a candidate's rank and density.

    The adapter's scale is kept, so that a higher rank adds capacity and
    does not shrink the steps.
    """
    config = RunConfig.parse(base)
    scale = config.adapter_scale
    return {
        **{key: value for key, value in base.items() if key != "resume"},
        "lora-rank": candidate.rank,
        "lora-alpha": scale * config.per_scale(candidate.rank),
        "download-density": candidate.density,
        "upload-density": candidate.density,
    }


def require_searchable(config: RunConfig) -> None:
    """Check that a run config leaves rank and densities to the search.

    Raises
    ------
    ValueError
        If the method or the adapter fixes one of them.
    """
    method = config.compose()
    if method.download_density is not None or method.upload_density is not None:
        raise ValueError(
            "method must be one whose densities can be set, such as 'flasc', got "
            f"{config.method!r}"
        )
    if config.download_bytes or config.upload_bytes:
        raise ValueError(
            "download-bytes and upload-bytes must be 0, because the search chooses the "
            f"densities, got {config.download_bytes} and {config.upload_bytes}"
        )
    if method.tiers != "none" or method.rank_assignment != "own":
        raise ValueError(
            "method must give all devices the same budget (tiers 'none', "
            f"rank-assignment 'own'), got {config.method!r} (tiers {method.tiers!r}, "
            f"rank-assignment {method.rank_assignment!r})"
        )
    if config.adapter:
        raise ValueError(
            f"adapter must be '' because it would fix the rank, got {config.adapter!r}"
        )


def result_of(history: Sequence[Mapping[str, Any]], megabytes: float) -> Result:
    """Return a run's accuracy after so many bytes, and its cost per round and client.

    Parameters
    ----------
    history : Sequence[Mapping[str, Any]]
        The rows of its history.
    megabytes : float
        Message bytes, both ways, in 10^6. The accuracy is that of the last evaluation
        within them; the cost is the mean over the replies of the most expensive round.

    Raises
    ------
    SearchError
        If the bytes do not suffice for one evaluated round.
    """
    sent = accumulate(message_bytes(row) for row in history)
    within = [
        row
        for row, spent in zip(history, sent, strict=True)
        if row["round"] and row.get("accuracy") is not None and spent <= 1e6 * megabytes
    ]
    costs = [message_bytes(r) / r["replies"] for r in history if r.get("replies")]
    if not within or not costs:
        least = sum(message_bytes(row) for row in history[:2]) / 1e6
        raise SearchError(
            "probe-megabytes must be many times the cost of one round of all clients "
            f"({least:.4g} MB), got {megabytes:.4g}"
        )
    return Result(within[-1]["accuracy"], max(costs) / 1e6)


def message_bytes(row: Mapping[str, Any]) -> int:
    """Return the message bytes of a history row, both ways."""
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
    """Search, and write ``search.json`` and the profile ``best.toml`` to a folder.

    Both are rewritten after every step, so an interrupted search leaves the best
    configuration so far.

    Returns
    -------
    list[Step]
        All steps; the last one holds the final configuration.

    Raises
    ------
    SearchError
        If the start exceeds the limits, or the probes are too short.
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
