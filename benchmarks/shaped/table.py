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

PREDICTED = ("8 / 8", "8 / 2", "8 / 1", "8 / 0.5", "8 / 0.25", "unequal")
"""Links of which the prediction knows everything: none loses packets."""

Rows = Sequence[Mapping[str, Any]]
Clients = dict[str, tuple[int, int]]


def tables(rows: Rows) -> str:
    """Return the tables, as Markdown."""
    found = {(row["links"], row["method"]): row for row in complete(rows)}
    return "\n\n".join([_seconds(found), _bytes(found)])


def complete(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the runs of at least two rounds whose objects were small."""
    return [row for row in rows if row["chunk"] < 1 << 20 and len(row["rounds"]) > 2]


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
        clients = by_client(row, each)
        seconds.append(round_seconds(each["round"], clients, link_of, compute=floor))
    return mean(seconds)


def by_client(row: Mapping[str, Any], each: Mapping[str, Any]) -> Clients:
    """Return the message bytes down and up of each client in a round.

    A round's bytes are split evenly where the row has them as a sum only: all devices
    train the same adapter at the same densities.
    """
    if each["by_client"]:
        return {name: (down, up) for name, (down, up) in each["by_client"].items()}
    down, up = (round(both / row["devices"]) for both in each["message_bytes"])
    return {str(number): (down, up) for number in range(row["devices"])}


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
            if links not in PREDICTED:
                cells += ["", "", "", ""]
            else:
                guess = predicted(row, floor)
                cells += [
                    f"{seconds - floor:.1f}",
                    f"{bare(row):.1f}",
                    f"{guess:.1f}",
                    f"{guess / seconds - 1:+.0%}",
                ]
            cells.append("" if method == "dense" else times)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bare(row: Mapping[str, Any]) -> float:
    """Return the slowest client's message bytes by its bandwidths, in seconds."""
    links = LINK_SETS[row["links"]](row["devices"])
    rounds = []
    for each in settled(row):
        seconds = []
        for client, (down, up) in by_client(row, each).items():
            link = links[int(client)]
            seconds.append(down * 8e-6 / link.down + up * 8e-6 / link.up)
        rounds.append(max(seconds))
    return mean(rounds)


def _bytes(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    lines = [
        "| method | way | payload | message | at the link | whole run: messages | "
        "counted by the SuperLink |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        row = found["8 / 1", method]
        for index, way in enumerate(("down", "up")):
            last = settled(row)[-1]
            counts = (
                last["payload_bytes"][index],
                last["message_bytes"][index],
                sum(each[index] for each in last["link_bytes"]),
                sum(each["message_bytes"][index] for each in row["rounds"]),
                row["superlink_bytes"][index],
            )
            shown = (f"{count / row['devices']:,.0f}" for count in counts)
            lines.append("| " + " | ".join([f"`{method}`", way, *shown]) + " |")
    return "\n".join(lines)


def faults(rows: Rows) -> str:
    """Return the table of faults, as Markdown."""
    lines = [
        "| fault | seconds of rounds 1, 2, ... | replies | reasons in the rows | run |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        rounds = [each for each in row["rounds"] if each["round"]]
        reasons = {reason for each in rounds for reason in each["failures"]}
        cells = [
            row["fault"],
            ", ".join(f"{each['seconds']:.0f}" for each in rounds) or "none",
            ", ".join(str(each["replies"]) for each in rounds),
            "; ".join(sorted(_short(reason) for reason in reasons)),
            _ended(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(reason: str) -> str:
    """Return Flower's reason without its explanation."""
    return reason.removeprefix("Error: ").split(" \u2014 ")[0].split(". ")[0]


def _ended(row: Mapping[str, Any]) -> str:
    """Return how a run ended, with the reason but no path of the machine."""
    status = row["status"].removeprefix("finished:")
    reason = row["details"].split("exception: ")[-1].split(": '")[0]
    return status if reason in ("", "N/A") else f"{status}: {reason}"
