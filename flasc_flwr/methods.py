"""Methods by name: each a composition of small parts, a row in one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flasc_flwr.budget import Budget
from flasc_flwr.schedules import Decay, Schedule, decaying, decaying_to
from flasc_flwr.selection import DownloadRule, fixed_support, largest


class Trains(StrEnum):
    """What a client may change of what it received."""

    ALL = "all"
    SUPPORT = "support"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What travels and what is trained, as data.

    Attributes
    ----------
    name : str
        The name in the run config.
    source : str
        Where the method is from.
    value_format : str
        What ``value-format = "auto"`` stands for.
    download : DownloadRule
        Which entries of the server vector travel.
    schedule : Schedule
        How its densities change with the rounds.
    dense_turns : int
        How many turns at the start download everything.
    trains : Trains
        What a client may change where the download is sparse.
    download_density, upload_density : float, optional
        Density that the method prescribes, in place of the run's and the node's.
    """

    name: str
    source: str
    value_format: str = "bfloat16"
    download: DownloadRule = largest
    schedule: Schedule = decaying
    dense_turns: int = 0
    trains: Trains = Trains.ALL
    download_density: float | None = None
    upload_density: float | None = None

    def budget(self, own: Budget, decay: Decay, turn: int) -> Budget:
        """Return what a client with the budget `own` uses at a turn.

        The turn is 1 before the first step of the server optimizer, then 2, and so
        on: a round in which nobody answered does not count.
        """
        times = decay.times(turn)
        download = self.download_density or self.schedule(
            own.download_density, decay.download, times
        )
        upload = self.upload_density or self.schedule(
            own.upload_density, decay.upload, times
        )
        return Budget(
            download_density=1.0 if turn <= self.dense_turns else download,
            upload_density=upload,
        )

    def trains_with(self, budget: Budget) -> Trains:
        """Return what a client with this turn's `budget` may change.

        A whole download has entries that are zero and do not travel: they are not
        frozen.
        """
        return Trains.ALL if budget.download_density == 1 else self.trains


METHODS = {
    method.name: method
    for method in (
        Method(
            name="dense",
            source="FedAvg of LoRA factors: Zhang et al., arXiv 2305.05644",
            value_format="float32",
            download_density=1.0,
            upload_density=1.0,
        ),
        Method(
            name="flasc",
            source="FLASC: Kuo et al., arXiv 2406.05233",
        ),
        Method(
            name="sparse-adapter",
            source="fixed mask after one dense round, as FLASC's code compares with it",
            download=fixed_support,
            # Chosen at the start, the support would hold no entry of B, which is zero.
            dense_turns=1,
            trains=Trains.SUPPORT,
            upload_density=1.0,
        ),
        Method(
            name="fedselect",
            source="mask anew each round, as FLASC's code compares with it",
            trains=Trains.SUPPORT,
            upload_density=1.0,
        ),
        Method(
            name="adapter-lth",
            source="iterative magnitude pruning, as FLASC's code compares with it",
            schedule=decaying_to,
            trains=Trains.SUPPORT,
            upload_density=1.0,
        ),
    )
}
