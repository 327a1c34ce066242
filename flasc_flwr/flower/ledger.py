"""The ledger of one round: what was sent, kept and refused, and the round's row."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Message

from flasc_flwr.flower.wire import holds_payload, message_bytes, payload_of
from flasc_flwr.traffic import Direction, Sent, Traffic


class Ledger:
    """Notes everything that happens in one round.

    Parameters
    ----------
    round : int
        The server round; 0 before the first.
    traffic : Traffic
        Where the bytes are added.
    """

    def __init__(self, round: int, traffic: Traffic) -> None:
        self.round = round
        self._traffic = traffic
        self._began = time.perf_counter()
        self._kept: dict[Direction, list[float]] = {way: [] for way in Direction}
        self._failures: list[dict[str, Any]] = []
        self._metrics: dict[str, Any] = {}

    def sent(self, messages: Sequence[Message], clients: Sequence[str]) -> None:
        """Count messages that go out, each to the client of the same index."""
        self._count(messages, clients, Direction.DOWN)

    def received(self, reply: Message, client: str) -> None:
        """Count a reply that came in."""
        self._count([reply], [client], Direction.UP)

    def downloaded(self, kept: float) -> None:
        """Note the fraction of the adapter that one training message carried."""
        self._kept[Direction.DOWN].append(kept)

    def uploaded(self, kept: float) -> None:
        """Note the fraction of the adapter in one update that was aggregated."""
        self._kept[Direction.UP].append(kept)

    def failed(self, client: str, reason: str) -> None:
        """Note a reply that was not aggregated, and why."""
        self._failures.append({"client": client, "reason": reason})

    def measured(self, metrics: Mapping[str, Any]) -> None:
        """Add metrics to the row."""
        self._metrics |= metrics

    def row(self) -> dict[str, Any]:
        """Return the round's row of the history.

        ``accuracy`` and ``loss`` are null where nothing was evaluated.
        """
        return {
            "round": self.round,
            "accuracy": None,
            "loss": None,
            **self._metrics,
            **self._traffic.totals(self.round),
            **{
                f"kept_{way}": float(np.mean(kept)) if kept else None
                for way, kept in self._kept.items()
            },
            "replies": len(self._kept[Direction.UP]),
            "failures": self._failures,
            "seconds": round(time.perf_counter() - self._began, 3),
        }

    def _count(
        self, messages: Sequence[Message], clients: Sequence[str], way: Direction
    ) -> None:
        for message, client, size in zip(
            messages, clients, message_bytes(messages), strict=True
        ):
            records = message.content.array_records if message.has_content() else {}
            payloads = [
                len(payload_of(record))
                for record in records.values()
                if holds_payload(record)
            ]
            self._traffic.record(
                Sent(
                    round=self.round,
                    client=client,
                    direction=way,
                    payload=sum(payloads),
                    message=size,
                    vectors=len(payloads),
                )
            )
