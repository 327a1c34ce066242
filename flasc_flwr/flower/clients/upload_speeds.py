"""How fast devices upload: measured at the server, from when replies were made.

A reply says when it was made, by the device's clock; the server notes when it arrived.
The least difference of all replies of a device, of which the introduction is the first
and has hardly any bytes, is what its clocks and Flower's polling make of it. What a
reply takes beyond that, it takes for its bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from statistics import median

from flwr.app import ArrayRecord, Message, RecordDict

from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.envelope import payload_in

_LEAST_SECONDS = 1.0
"""Differences below this are Flower's polling, not the link."""

_KEPT = 3
"""The median of so many replies: one that waited for another counts little."""

_FEWEST_BYTES = 4096
"""Replies with fewer say nothing of a bandwidth."""


@dataclass
class _Seen:
    least: float = float("inf")
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))


class UploadSpeeds:
    """Bandwidths of devices' uploads, by their node ids.

    Parameters
    ----------
    clock : Callable[[], float]
        Seconds since 1970, as Flower's messages have them.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen: dict[int, _Seen] = defaultdict(_Seen)

    def arrived(self, node: int, reply: Message) -> None:
        """Note that a reply of a node has just arrived."""
        if reply.has_error():
            return
        late = self._clock() - reply.metadata.created_at
        if not isfinite(late):  # the device writes it itself
            return
        seen = self._seen[node]
        seen.least = min(seen.least, late)
        size = _size(reply.content)
        if size >= _FEWEST_BYTES:
            seen.speeds.append(size / max(_LEAST_SECONDS, late - seen.least))

    def of(self, node: int) -> float | None:
        """Return a node's bandwidth in bytes per second; None if it is not known.

        It is rather too low than too high: replies that are taken together arrive when
        the last of them has.
        """
        seen = self._seen.get(node)
        return median(seen.speeds) if seen and seen.speeds else None


def _size(content: RecordDict) -> int:
    """Return the bytes of a reply's arrays, or of its envelope's payload."""
    records = records_of(content, ArrayRecord).values()
    arrays = sum(len(array.data) for record in records for array in record.values())
    return arrays + len(payload_in(content) or b"")
