"""The bytes of each client in each round, as a run's folder tells them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flasc_flwr.app.reporting.runs import Run
from flasc_flwr.app.runs.link_times import Exchanges

Rows = Sequence[Mapping[str, Any]]


def exchanges_of(run: Run, *, even_split: bool = False) -> Exchanges:
    """Return a run's message bytes by round and client.

    Parameters
    ----------
    run : Run
        The run.
    even_split : bool
        Where the folder has no ``traffic.json``, take each round's bytes to be shared
        evenly among its clients.

    Raises
    ------
    ValueError
        If the run has no round, or its files do not tell, or not the same.
    """
    where = repr(str(run.folder))
    if not run.history:
        raise ValueError(f"{where} is a run without a finished round")
    try:
        rows = run.traffic
        exchanges = by_client(rows)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: traffic.json cannot be read: {error!r}") from None
    if rows:
        _compare(where, exchanges, run.history)
        return exchanges
    if even_split:
        return split(run.history)
    raise ValueError(
        f"{where} has no traffic.json, which tells the bytes of each client: the run "
        "is of an older version or has not ended. With --even-split each round's bytes "
        "are shared evenly among its clients"
    )


def by_client(rows: Iterable[Mapping[str, Any]]) -> Exchanges:
    """Return the message bytes of the rows of ``traffic.json``.

    Raises
    ------
    ValueError
        If a direction is neither ``down`` nor ``up``.
    """
    sums: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in rows:
        way, message = row["direction"], row["message"]
        if way not in ("down", "up"):
            raise ValueError(f"a direction is {way!r}, allowed is 'down' or 'up'")
        down, up = sums[row["round"]].get(row["client"], (0, 0))
        both = (down + message, up) if way == "down" else (down, up + message)
        sums[row["round"]][row["client"]] = both
    return dict(sums)


def split(history: Rows) -> Exchanges:
    """Share each round's bytes evenly among its clients.

    A round without replies, such as that of introductions, is shared among as many as
    answered in the largest.
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


def _compare(where: str, exchanges: Exchanges, history: Rows) -> None:
    """See whether a run's traffic is that of its history."""
    for row in history:
        told = (row["message_bytes_down"], row["message_bytes_up"])
        clients = exchanges.get(row["round"], {}).values()
        found = (sum(down for down, _ in clients), sum(up for _, up in clients))
        if found != told:
            raise ValueError(
                f"{where}: traffic.json has {found} message bytes down and up in round "
                f"{row['round']}, but history.jsonl has {told}: they are of different "
                "runs"
            )
