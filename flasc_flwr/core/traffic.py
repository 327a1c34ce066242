"""Traffic: the bytes really sent, by round, client and direction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum


class Direction(StrEnum):
    """The direction of a message, as seen from the client."""

    DOWN = "down"
    UP = "up"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One message, or the sum of several to or from one client.

    Attributes
    ----------
    round : int
        Server round; 0 before the first one.
    client : str
        Name of the client.
    direction : Direction
        Its direction.
    payload : int
        Bytes of this project's payloads in it.
    message : int
        Bytes of the serialized Flower message.
    vectors : int
        Number of adapters in it. As dense float32, each takes ``4 * N`` bytes.
    plain : int
        Bytes of the same values as plain Flower arrays, counted where their dtypes
        vary.
    """

    round: int
    client: str
    direction: Direction
    payload: int
    message: int
    vectors: int = 0
    plain: int = 0

    def plus(self, other: Sent) -> Sent:
        """Return the sum with a message of the same round, client and direction."""
        amounts = [f.name for f in fields(self) if f.name not in _WHOSE]
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in amounts},
        )


_WHOSE = ("round", "client", "direction")


@dataclass
class Traffic:
    """What was sent in a run: sums by round, client and direction.

    Attributes
    ----------
    rounds : dict[int, dict[tuple[str, Direction], Sent]]
        The sums, by round, so that those of one round are found quickly.
    """

    rounds: dict[int, dict[tuple[str, Direction], Sent]] = field(default_factory=dict)

    @property
    def sent(self) -> list[Sent]:
        """All sums."""
        return [sent for sums in self.rounds.values() for sent in sums.values()]

    def record(self, sent: Sent) -> None:
        """Add one message."""
        sums = self.rounds.setdefault(sent.round, {})
        whose = sent.client, sent.direction
        sums[whose] = sums[whose].plus(sent) if whose in sums else sent

    def rename(self, round: int, names: Mapping[str, str]) -> None:
        """Rename clients in what one round has counted, all at once."""
        sums = self.rounds.pop(round, {})
        for sent in sums.values():
            self.record(replace(sent, client=names.get(sent.client, sent.client)))

    def totals(self, round: int | None = None) -> dict[str, int]:
        """Return bytes by kind and direction, of one round or of all.

        The keys are those of a row of the history: ``payload_bytes_down``,
        ``payload_bytes_up``, ``message_bytes_down`` and ``message_bytes_up``.
        """
        chosen = self._of(round)
        return {
            f"{kind}_bytes_{way}": sum(
                getattr(s, kind) for s in chosen if s.direction == way
            )
            for kind in ("payload", "message")
            for way in Direction
        }

    def _of(self, round: int | None) -> Collection[Sent]:
        return self.sent if round is None else self.rounds.get(round, {}).values()

    def by_client(self) -> dict[str, int]:
        """Return the message bytes of each client, both ways."""
        sums: dict[str, int] = {}
        for sent in self.sent:
            sums[sent.client] = sums.get(sent.client, 0) + sent.message
        return sums

    def dense_float32_bytes(self, size: int, round: int | None = None) -> int:
        """Return what the same messages take as dense float32, of one round or of all.

        A baseline that favours dense messages: ``4 * N`` bytes per adapter, nothing for
        names, headers and control values.

        Parameters
        ----------
        size : int
            N, the number of entries of the adapter.
        round : int, optional
            The round; by default all.
        """
        chosen = self._of(round)
        return 4 * size * sum(s.vectors for s in chosen)

    def plain_bytes(self, round: int | None = None) -> int:
        """Return what the same values take as plain Flower arrays.

        Of one round or of all; their data only, without names, records and messages.
        """
        return sum(s.plain for s in self.sent if round is None or s.round == round)

    def in_words(self) -> str:
        """Return the bytes of all messages as text, beside those of plain arrays.

        With how many times less was sent, if it was less.
        """
        totals = self.totals()
        down, up = totals["message_bytes_down"], totals["message_bytes_up"]
        words = f"{_words(down)} down and {_words(up)} up"
        if plain := self.plain_bytes():
            words += f"; plain arrays: {_words(plain)}"
            times = f"{plain / (down + up):.1f}"
            words += f" ({times} times)" if float(times) > 1 else ""
        return words


def _words(count: float) -> str:
    """Return a number of bytes as text, in a suitable unit."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if float(f"{count:.3g}") < 1000:  # as it is shown: 999.7 would be 1e+03
            break
        count, unit = count / 1000, larger
    return f"{count:.3g} {unit}"
