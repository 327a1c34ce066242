"""The bytes of each client in each round, from a run's folder."""

from __future__ import annotations

from collections import defaultdict

from flasc_flwr.app.reporting.runs import Rows, Run
from flasc_flwr.app.runs.link_times import Exchanges


def exchanges_of(run: Run, *, even_split: bool = False) -> Exchanges:
    """Return a run's message bytes by round and client.

    Parameters
    ----------
    run : Run
        The run.
    even_split : bool
        If the folder has no ``traffic.json``, split each round's bytes evenly over its
        clients.

    Raises
    ------
    ValueError
        If the run has no finished round, or its files lack the bytes of each client
        or contradict each other.
    """
    where = repr(str(run.folder))
    if not run.history:
        raise ValueError(f"{where} is a run without a finished round")
    try:
        rows = run.traffic
        exchanges = _by_client(rows)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: traffic.json cannot be read: {error!r}") from None
    if rows:
        _check_history(where, exchanges, run.history)
        return exchanges
    if even_split:
        return _even_split(run.history)
    raise ValueError(
        f"{where} has no traffic.json, with the bytes of each client: the run was made "
        "by an older version or has not ended. With --even-split, each round's bytes "
        "are split evenly over its clients"
    )


def _by_client(rows: Rows) -> Exchanges:
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
            raise ValueError(f"direction must be 'down' or 'up', got {way!r}")
        down, up = sums[row["round"]].get(row["client"], (0, 0))
        both = (down + message, up) if way == "down" else (down, up + message)
        sums[row["round"]][row["client"]] = both
    return dict(sums)


def _even_split(history: Rows) -> Exchanges:
    """Split each round's bytes evenly over its clients.

    A round without replies, such as that of introductions, is split over as many
    clients as replied in the largest round.
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


def _check_history(where: str, exchanges: Exchanges, history: Rows) -> None:
    """Check that a run's traffic agrees with its history."""
    for row in history:
        recorded = (row["message_bytes_down"], row["message_bytes_up"])
        clients = exchanges.get(row["round"], {}).values()
        found = (sum(down for down, _ in clients), sum(up for _, up in clients))
        if found != recorded:
            raise ValueError(
                f"{where}: traffic.json has {found} message bytes down and up in round "
                f"{row['round']}, but history.jsonl has {recorded}: they are from "
                "different runs"
            )
