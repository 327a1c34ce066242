"""The links that are measured, by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice

from shaped.network import Link


def _same(link: Link) -> Callable[[int], list[Link]]:
    return lambda count: [link] * count


_UNEQUAL = (
    Link(down=50, up=10, round_trip=0.02),
    Link(down=8, up=1),
    Link(down=8, up=0.5),
    Link(down=2, up=0.25, round_trip=0.1),
)

LINK_SETS: dict[str, Callable[[int], list[Link]]] = {
    "unshaped": _same(Link()),
    "8 / 8": _same(Link(down=8, up=8)),
    "8 / 2": _same(Link(down=8, up=2)),
    "8 / 1": _same(Link(down=8, up=1)),
    "8 / 0.5": _same(Link(down=8, up=0.5)),
    "8 / 0.25": _same(Link(down=8, up=0.25)),
    "unequal": lambda count: list(islice(cycle(_UNEQUAL), count)),
    "8 / 1, 10 % loss": _same(Link(down=8, up=1, loss=0.1)),
    "8 / 0.25, long queue": _same(Link(down=8, up=0.25, queue=60)),
}
"""From the name of a set, in Mbit/s down / up, to the links of so many devices."""
