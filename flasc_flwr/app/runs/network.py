"""The network model: how long a run's recorded messages take over given links.

It is applied after the fact, to bytes that were measured: one run tells its time over
any links. A round takes as long as its slowest client, and rounds follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from flasc_flwr.core.methods.tiers import tier_of
from flasc_flwr.core.ranges import number

BYTES_PER_MEGABIT = 1e6 / 8

Exchanges = Mapping[int, Mapping[str, tuple[int, int]]]
"""Message bytes down and up, by round and client."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A client's connection to the server.

    Attributes
    ----------
    download, upload : float
        Bandwidths in Mbit/s (10^6 bits a second), > 0.
    latency : float
        Seconds that a message takes beside its bytes, either way.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    download: float
    upload: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        number("(0, inf)").require("download", self.download)
        number("(0, inf)").require("upload", self.upload)
        number("[0, inf)").require("latency", self.latency)

    @classmethod
    def slower_up(cls, download: float, factor: float, latency: float = 0.0) -> Link:
        """Return a link whose upload is `factor` times slower than its download."""
        number("(0, inf)").require("up-slower", factor)
        return cls(download=download, upload=download / factor, latency=latency)

    def seconds(self, down: int, up: int) -> float:
        """Return how long `down` bytes to the client and `up` bytes back take.

        A way on which nothing was sent costs nothing, not even latency.
        """
        return self._one_way(down, self.download) + self._one_way(up, self.upload)

    def _one_way(self, count: int, megabits: float) -> float:
        return self.latency + count / (megabits * BYTES_PER_MEGABIT) if count else 0.0


LinkOf = Callable[[str], Link]
"""Gives a client's link by its name."""


def same(link: Link) -> LinkOf:
    """Give all clients one link."""
    return lambda client: link


def by_tier(links: Sequence[Link]) -> LinkOf:
    """Give each tier its link, the first to tier 0.

    Tiers are those of the methods with unequal devices: a client's number modulo how
    many there are, where a device did not name its own.
    """
    return lambda client: links[tier_of(client, {}, len(links))]


def drawn(links: Sequence[Link], shares: Sequence[float], seed: int) -> LinkOf:
    """Draw each client's link, with probabilities in proportion to `shares`.

    The draw depends on the seed and the client's name alone: it is the same in every
    round and in every run.

    Raises
    ------
    ValueError
        If a share is not a number above 0, or there is not one for each link.
    """
    if len(shares) != len(links):
        raise ValueError(f"{len(links)} links have {len(shares)} shares")
    weights = [number("(0, inf)").require("share", share) for share in shares]
    return lambda client: Random(f"{seed}/{client}").choices(links, weights)[0]


def round_seconds(
    round: int,
    clients: Mapping[str, tuple[int, int]],
    link_of: LinkOf,
    *,
    compute: float = 0.0,
) -> float:
    """Return how long one round takes: as long as its slowest client.

    Parameters
    ----------
    round : int
        The round; in round 0, of introductions, nothing is computed.
    clients : Mapping[str, tuple[int, int]]
        Message bytes down and up of each client.
    link_of : LinkOf
        The clients' links.
    compute : float
        Seconds that a client computes before it answers.
    """
    number("[0, inf)").require("compute", compute)
    return max(
        (
            link_of(client).seconds(down, up) + (compute if round and up else 0.0)
            for client, (down, up) in clients.items()
        ),
        default=0.0,
    )


def elapsed(
    rounds: Sequence[int],
    exchanges: Exchanges,
    link_of: LinkOf,
    *,
    compute: float = 0.0,
) -> list[float]:
    """Return the seconds from the start of a run to the end of each of its rounds.

    Parameters
    ----------
    rounds : Sequence[int]
        The rounds in order, as the history has them.
    exchanges : Exchanges
        The bytes; a round that is missing sent nothing.
    link_of : LinkOf
        The clients' links.
    compute : float
        Seconds that a client computes in a round.
    """
    return list(
        accumulate(
            round_seconds(r, exchanges.get(r, {}), link_of, compute=compute)
            for r in rounds
        )
    )


@dataclass(frozen=True)
class Reached:
    """When a run reached a target accuracy, in seconds; None if it did not.

    Attributes
    ----------
    first : float, optional
        At the first evaluation that is at least the target.
    stays : float, optional
        At the first from which on none is below it.
    """

    first: float | None
    stays: float | None


def seconds_to(
    target: float, accuracies: Sequence[float | None], seconds: Sequence[float]
) -> Reached:
    """Return when a target accuracy was reached, and when for good.

    Parameters
    ----------
    target : float
        Accuracy, in [0, 1].
    accuracies : Sequence[float | None]
        One a round; None where nothing was evaluated.
    seconds : Sequence[float]
        When each round ended.

    Raises
    ------
    ValueError
        If the target is out of range, or the lengths differ.
    """
    number("[0, 1]").require("target", target)
    evaluated = [
        (accuracy, at)
        for accuracy, at in zip(accuracies, seconds, strict=True)
        if accuracy is not None
    ]
    first = next((at for accuracy, at in evaluated if accuracy >= target), None)
    stays = None
    for accuracy, at in reversed(evaluated):
        if accuracy < target:
            break
        stays = at
    return Reached(first, stays)
