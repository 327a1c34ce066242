"""The bytes of each client in each round, from a run's folder."""

from __future__ import annotations

from collections import defaultdict

from flasc_flwr.app.reporting.run_files import Rows
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.app.runs.link_times import Exchanges


def exchanges_of(run: SavedRun, *, even_split: bool = False) -> Exchanges:
    """Return a run's message bytes by round and client.

    Parameters
    ----------
    run : SavedRun
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
    if run.traffic:
        exchanges = _by_client(run.traffic)
        _check_history(where, exchanges, run.history)
        return exchanges
    if even_split:
        return _even_split(where, run.history)
    raise ValueError(
        f"{where} has no traffic.json, with the bytes of each client: the run was made "
        "by an older version or has not ended. With --even-split, each round's bytes "
        "are split evenly over its clients"
    )


def _by_client(rows: Rows) -> Exchanges:
    """Return the message bytes of the rows of ``traffic.json``."""
    sums: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in rows:
        way, message = row["direction"], row["message"]
        down, up = sums[row["round"]].get(row["client"], (0, 0))
        both = (down + message, up) if way == "down" else (down, up + message)
        sums[row["round"]][row["client"]] = both
    return dict(sums)


def _even_split(where: str, history: Rows) -> Exchanges:
    """Split each round's bytes evenly over its clients.

    A round without replies, such as that of introductions, is split over as many
    clients as replied in the largest round.
    """
    if unknown := [r["round"] for r in history if r.get("replies") is None]:
        raise ValueError(
            f"{where}: history.jsonl has no 'replies' in round {unknown[0]}, among "
            "which --even-split would split its bytes"
        )
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
