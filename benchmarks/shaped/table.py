"""The tables of docs/deploy.md, from the rows of links.py and link_faults.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from flasc_flwr.app.runs.link_times import Link, round_seconds
from shaped.sets import LINK_SETS

ROUND_TRIPS = 6
"""Round trips that a message takes, either way: its list, its objects, a receipt."""

METHODS = ("dense", "flasc", "flasc-ef")

Rows = Sequence[Mapping[str, Any]]


def tables(rows: Rows) -> str:
    """Return the tables, as Markdown."""
    whole = [row for row in rows if row["chunk"] < 1 << 20 and len(row["rounds"]) > 2]
    found = {(row["links"], row["method"]): row for row in whole}
    return "\n\n".join([_seconds(found), _bytes(found)])


def settled(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a run's rounds after the first, whose updates are half zeros."""
    return [each for each in row["rounds"] if each["round"] > 1]


def measured(row: Mapping[str, Any]) -> float:
    """Return a run's seconds a round."""
    return mean(each["seconds"] for each in settled(row))


def predicted(row: Mapping[str, Any], floor: float) -> float:
    """Return what ``flasc-flwr network`` says of a run's rounds.

    Parameters
    ----------
    row : Mapping[str, Any]
        The run.
    floor : float
        Seconds of the same method's rounds on links that are not shaped.
    """
    links = LINK_SETS[row["links"]](row["devices"])

    def link_of(client: str) -> Link:
        link = links[int(client)]
        assert link.down is not None and link.up is not None
        latency = ROUND_TRIPS * link.round_trip
        return Link(download=link.down, upload=link.up, latency=latency)

    seconds = []
    for each in settled(row):
        clients = {name: tuple(both) for name, both in each["by_client"].items()}
        seconds.append(round_seconds(each["round"], clients, link_of, compute=floor))
    return mean(seconds)


def _seconds(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    floors = {m: measured(found["unshaped", m]) for m in METHODS}
    lines = [
        "| links, Mbit/s down / up | method | seconds a round | of them beyond the "
        "floor | bytes / bandwidth | predicted | error | dense takes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for links in LINK_SETS:
        for method in METHODS:
            row = found.get((links, method))
            if row is None:
                continue
            seconds, floor = measured(row), floors[method]
            dense = found.get((links, "dense"))
            times = f"{measured(dense) / seconds:.1f} times" if dense else ""
            cells = [links, f"`{method}`", f"{seconds:.1f}"]
            if links == "unshaped":
                cells += ["", "", "", ""]
            else:
                guess = predicted(row, floor)
                cells += [
                    f"{seconds - floor:.1f}",
                    f"{_bare(row):.1f}",
                    f"{guess:.1f}",
                    f"{guess / seconds - 1:+.0%}",
                ]
            cells.append("" if method == "dense" else times)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bare(row: Mapping[str, Any]) -> float:
    """Return the slowest client's message bytes by its bandwidths, in seconds."""
    links = LINK_SETS[row["links"]](row["devices"])
    rounds = []
    for each in settled(row):
        seconds = []
        for client, (down, up) in each["by_client"].items():
            link = links[int(client)]
            seconds.append(down * 8e-6 / link.down + up * 8e-6 / link.up)
        rounds.append(max(seconds))
    return mean(rounds)


def _bytes(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    lines = [
        "| method | way | payload | message | at the link |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        row = found["8 / 1", method]
        for index, way in enumerate(("down", "up")):
            last, count = settled(row)[-1], row["devices"]
            link = sum(each[index] for each in last["link_bytes"])
            counts = (last["payload_bytes"][index], last["message_bytes"][index], link)
            shown = " | ".join(f"{number / count:,.0f}" for number in counts)
            lines.append(f"| `{method}` | {way} | {shown} |")
    return "\n".join(lines)
