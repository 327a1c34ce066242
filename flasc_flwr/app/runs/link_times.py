"""How long a run's messages take over given links.

The model is applied afterwards, to recorded bytes, so one run gives its time over any
links. A round takes as long as its slowest client; rounds do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from flasc_flwr.core.methods.tiers import tier_of
from flasc_flwr.core.ranges import number

BYTES_PER_MEGABIT = 1e6 / 8

MEGABITS = number("[1e-6, 1e6]")
"""What a bandwidth may be, in Mbit/s: then times are finite."""

LATENCY = number("[0, 1e6]")
"""What a latency, or a client's computing in a round, may be, in seconds."""

ON_THE_LINK = 1.04
"""Bytes on a link for each byte of a message: of a packet's 1,500 bytes, 52 are headers
of IP and TCP; TLS, HTTP and Flower's requests add the rest. Measured: docs/deploy.md.
"""

Exchanges = Mapping[int, Mapping[str, tuple[int, int]]]
"""Message bytes (down, up), by round and client."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A client's connection to the server.

    Attributes
    ----------
    download, upload : float
        Bandwidths in Mbit/s (10^6 bits per second), 1e-6 to 1e6.
    latency : float
        Seconds added to each message in either direction, up to 1e6: Flower asks for a
        message, then for its objects, and confirms, which takes about 6 round trips.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    download: float
    upload: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        MEGABITS.require("download", self.download)
        MEGABITS.require("upload", self.upload)
        LATENCY.require("latency", self.latency)

    @classmethod
    def slower_up(cls, download: float, factor: float, latency: float = 0.0) -> Link:
        """Return a link whose upload is `factor` times slower than its download."""
        number("[1e-6, 1e6]").require("up-slower", factor)
        return cls(download=download, upload=download / factor, latency=latency)

    def seconds(self, down: int, up: int) -> float:
        """Return how long `down` bytes to the client and `up` bytes back take.

        Bytes are of messages; on the link they are `ON_THE_LINK` times as many. A
        direction in which nothing was sent adds no latency.
        """
        return self._one_way(down, self.download) + self._one_way(up, self.upload)

    def _one_way(self, count: int, megabits: float) -> float:
        if not count:
            return 0.0
        return self.latency + ON_THE_LINK * count / (megabits * BYTES_PER_MEGABIT)


LinkOf = Callable[[str], Link]
"""Returns the link of a client, given its name."""


def same(link: Link) -> LinkOf:
    """Give all clients the same link."""
    return lambda client: link


def by_tier(links: Sequence[Link]) -> LinkOf:
    """Give each tier its link, the first to tier 0.

    A client's tier is its number modulo the number of links, as in the methods with
    unequal devices.
    """
    return lambda client: links[tier_of(client, {}, len(links))]


def drawn(links: Sequence[Link], shares: Sequence[float], seed: int) -> LinkOf:
    """Draw each client's link, with probabilities in proportion to `shares`.

    The draw depends only on the seed and the client's name, so a client has the same
    link in every round and every run.

    Raises
    ------
    ValueError
        If a share is not in (0, 1e12], or there are not as many as links.
    """
    if len(shares) != len(links):
        raise ValueError(
            f"shares must be {len(links)}, one per link, got {len(shares)}"
        )
    weights = [number("(0, 1e12]").require("share", share) for share in shares]
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
        The round. In round 0, clients introduce themselves and compute nothing.
    clients : Mapping[str, tuple[int, int]]
        Message bytes down and up of each client.
    link_of : LinkOf
        The clients' links.
    compute : float
        Seconds that each client computes before it replies.
    """
    LATENCY.require("compute", compute)
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
        The bytes. A missing round sent nothing.
    link_of : LinkOf
        The clients' links.
    compute : float
        Seconds that each client computes in a round.
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
        Time of the first evaluation at or above the target.
    stays : float, optional
        Time of the first evaluation after which none is below the target.
    """

    first: float | None
    stays: float | None


def seconds_to(
    target: float, accuracies: Sequence[float | None], seconds: Sequence[float]
) -> Reached:
    """Return when a target accuracy was first reached, and from when it was kept.

    Parameters
    ----------
    target : float
        Accuracy, in [0, 1].
    accuracies : Sequence[float | None]
        One per round; None in rounds without an evaluation.
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
