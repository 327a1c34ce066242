"""Tables and figures of docs/results.md and docs/privacy.md, from committed results."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from flasc_flwr.network import Link
from flasc_flwr.reporting.figures import curves, save

TARGETS = (0.60, 0.65, 0.70, 0.72, 0.75)
MARGIN = 0.005

Result = Mapping[str, Any]
Runs = Mapping[str, Sequence[Result]]


def read(results: Path, experiment: str) -> Runs:
    """Return an experiment's results by setting, one for each seed."""
    runs: dict[str, list[Result]] = defaultdict(list)
    for path in sorted(results.glob(f"{experiment}-*.json")):
        setting = path.stem.removeprefix(f"{experiment}-").rpartition("-seed")[0]
        runs[setting].append(json.loads(path.read_text()))
    return runs


def sent(row: Sequence[Any]) -> float:
    """Return MB both ways until a row of a curve."""
    return (row[3] + row[4]) / 1e6


def first(curve: Sequence[Sequence[Any]], target: float) -> Sequence[Any] | None:
    """Return where a curve first reaches an accuracy; None if it does not."""
    return next((row for row in curve if row[1] >= target), None)


def stays(curve: Sequence[Sequence[Any]], target: float) -> Sequence[Any] | None:
    """Return where a curve first reaches an accuracy that it then never falls below."""
    place = None
    for row in curve:
        if row[1] < target:
            place = None
        elif place is None:
            place = row
    return place


Reach = Callable[[Sequence[Sequence[Any]], float], Sequence[Any] | None]


def bytes_table(runs: Runs, targets: Sequence[float], reach: Reach) -> None:
    """Print the MB until each accuracy, and how many times fewer than dense."""
    print("| run | rounds | last accuracy |" + "".join(f" {t:.1%} |" for t in targets))
    print("|---|---|---|" + "---|" * len(targets))
    dense = runs["dense"][0]["curve"]
    for name, results in runs.items():
        for result in results:
            cells = []
            for target in targets:
                own = reach(result["curve"], target)
                base = reach(dense, target)
                cell = "-" if own is None else f"{sent(own):.1f} (round {own[0]})"
                if own and base and name != "dense":
                    cell += f", {sent(base) / sent(own):.1f}x"
                cells.append(cell)
            last = result["curve"][-1]
            print(f"| {name} | {last[0]} | {last[1]:.1%} | " + " | ".join(cells) + " |")
    print()


def news(results: Path, figures: Path) -> None:
    """Figure 2 on 20NewsGroups + MiniLM, and the headline."""
    runs = read(results, "news")
    if not runs:
        return
    print("## MB of messages, both ways, until an accuracy was first reached\n")
    bytes_table(runs, TARGETS, first)
    last = runs["dense"][0]["curve"][-1][1]
    print(f"## The same until it stays at {last - MARGIN:.1%} (dense: {last:.1%})\n")
    bytes_table(runs, (last - MARGIN,), stays)
    figure = curves(
        {
            name: [
                (
                    [sent(row) for row in result["curve"]],
                    [row[1] for row in result["curve"]],
                )
                for result in several
            ]
            for name, several in runs.items()
        },
        x_label="MB of messages, both ways",
        y_label="test accuracy",
        log_x=True,
        y_percent=True,
    )
    figures.mkdir(parents=True, exist_ok=True)
    save(figure, figures / "news-bytes")
    slower_uploads(runs)


def slower_uploads(runs: Runs) -> None:
    """Print figure 3: seconds of communication to 70 %, by the slower upload."""
    ways = (1, 4, 16)
    print("## Seconds of communication until 70 %: 10 Mbit/s down, 0.05 s latency\n")
    print("| run |" + "".join(f" upload {way}x slower |" for way in ways))
    print("|---|" + "---|" * len(ways))
    for name, results in runs.items():
        curve = results[0]["curve"]
        row = first(curve, 0.7)
        if row is None:
            continue
        clients = int(results[0]["clients"] * results[0]["settings"]["fraction-train"])
        cells = []
        for way in ways:
            link = Link(download=10, upload=10 / way, latency=0.05)
            # Clients of a round receive and send alike: each has an even part.
            down, up = (row[i] / clients / row[0] for i in (3, 4))
            cells.append(f"{row[0] * link.seconds(down, up):.0f} s")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def privacy(results: Path, figures: Path) -> None:
    """Accuracy at the same epsilon."""
    runs = read(results, "privacy")
    if not runs:
        return
    epsilons = ("inf", "8", "2")
    names = list(dict.fromkeys(name.rpartition("-epsilon")[0] for name in runs))
    print("## Accuracy at the same epsilon\n")
    print("| method | " + " | ".join(f"epsilon {e}" for e in epsilons) + " | MB |")
    print("|---|" + "---|" * (len(epsilons) + 1))
    for name in names:
        cells = []
        for epsilon in epsilons:
            several = runs.get(f"{name}-epsilon{epsilon}", [])
            values = [100 * r["curve"][-1][1] for r in several]
            cells.append(
                f"{fmean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})"
                if values
                else "-"
            )
        spent = [
            sent(r["curve"][-1])
            for e in epsilons
            for r in runs.get(f"{name}-epsilon{e}", [])
        ]
        print(f"| {name} | " + " | ".join(cells) + f" | {fmean(spent):.0f} |")
    print()
