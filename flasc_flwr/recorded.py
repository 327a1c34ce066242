"""What a run recorded in its folder, read back: its history and its traffic."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flasc_flwr.network import Exchanges

COLUMNS = ["round", "client", "direction", "payload", "message"]
"""The columns of ``traffic.json``."""


class RecordError(ValueError):
    """A run folder that cannot be read: which, and what is wrong with it."""


@dataclass(frozen=True)
class Recorded:
    """A run, as its folder tells it.

    Attributes
    ----------
    folder : Path
        The folder.
    history : Sequence[Mapping[str, Any]]
        The rows of ``history.jsonl``.
    exchanges : Exchanges
        Message bytes by round and client.
    """

    folder: Path
    history: Sequence[Mapping[str, Any]]
    exchanges: Exchanges

    @classmethod
    def read(cls, folder: Path, *, even_split: bool = False) -> Recorded:
        """Read a run's folder.

        Parameters
        ----------
        folder : Path
            The run's folder.
        even_split : bool
            Where the folder has no ``traffic.json``, take each round's bytes to be
            shared evenly among its clients.

        Raises
        ------
        RecordError
            If the folder holds no such run, or its files do not fit together.
        """
        history = read_history(folder)
        path = folder / "traffic.json"
        if path.is_file():
            exchanges = _exchanges(path)
            _compare(path, exchanges, history)
        elif even_split:
            exchanges = _split(history)
        else:
            raise RecordError(
                f"{str(folder)!r} has no traffic.json, which tells the bytes of each "
                "client: the run is of an older version or has not ended. With "
                "--even-split each round's bytes are shared evenly among its clients"
            )
        return cls(folder, history, exchanges)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's history.

    Raises
    ------
    RecordError
        If there is none that can be read.
    """
    path = folder / "history.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{str(folder)!r} is no run folder: its history.jsonl cannot be read "
            f"({error})"
        ) from None
    if not rows:
        raise RecordError(f"{str(folder)!r} is a run without a finished round")
    return rows


def message_bytes(row: Mapping[str, Any]) -> int:
    """Return the message bytes of a row of the history, both ways."""
    return int(row["message_bytes_down"] + row["message_bytes_up"])


def _exchanges(path: Path) -> Exchanges:
    try:
        content = json.loads(path.read_text())
        columns, rows = content["columns"], content["rows"]
        if columns != COLUMNS:
            raise ValueError(f"its columns are {columns}, allowed are {COLUMNS}")
        sums: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
        for round, client, way, _, message in rows:
            if way not in ("down", "up"):
                raise ValueError(f"a direction is {way!r}, allowed is 'down' or 'up'")
            down, up = sums[round].get(client, (0, 0))
            both = (down + message, up) if way == "down" else (down, up + message)
            sums[round][client] = both
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(f"{str(path)!r} cannot be read: {error}") from None
    return dict(sums)


def _compare(
    path: Path, exchanges: Exchanges, history: Sequence[Mapping[str, Any]]
) -> None:
    """See whether a run's traffic is that of its history."""
    for row in history:
        told = (row["message_bytes_down"], row["message_bytes_up"])
        clients = exchanges.get(row["round"], {}).values()
        found = (sum(down for down, _ in clients), sum(up for _, up in clients))
        if found != told:
            raise RecordError(
                f"{str(path)!r} has {found} message bytes down and up in round "
                f"{row['round']}, but history.jsonl has {told}: they are of "
                "different runs"
            )


def _split(history: Sequence[Mapping[str, Any]]) -> Exchanges:
    """Share each round's bytes evenly among its clients.

    A round without replies, such as that of introductions, is shared among as many
    as answered in the largest.
    """
    most = max(row["replies"] for row in history) or 1
    return {
        row["round"]: {
            str(client): (
                round(row["message_bytes_down"] / count),
                round(row["message_bytes_up"] / count),
            )
            for count in [row["replies"] or most]
            for client in range(count)
        }
        for row in history
    }
