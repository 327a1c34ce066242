"""Tables and figure of the chat model, from the rows of benchmarks/chat_model.py."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from reproduce_tables import table

from flasc_flwr.app.reporting.figures import curves, save

NAMES = {
    "dense": "dense, float32",
    "ef16": "error feedback, 1/16, int4",
    "ef64": "error feedback, 1/64, int4",
    "flasc16": "FLASC, 1/16, int8",
    "flasc64": "FLASC, 1/64, int8",
}
DOMAINS = ("code", "math", "roleplay")
SHORT = 8
"""Rounds of the shortened runs."""

Point = Mapping[str, float]
Runs = Mapping[str, Mapping[int, Sequence[Point]]]


def read(file: Path) -> Runs:
    """Return the curve of each run and seed, in the order of the tables."""
    found: dict[str, dict[int, Any]] = {name: {} for name in NAMES}
    for row in map(json.loads, file.read_text().splitlines()):
        found[row["run"]][row["seed"]] = row["curve"]
    return found


def draw(file: Path, figures: Path) -> None:
    """Print the tables, and draw the figure."""
    runs = read(file)
    print("## chat model\n")
    whole_table({name: seeds[0] for name, seeds in runs.items()})
    seeds_table(runs)
    shown = {
        NAMES[name]: [([p["mb"] for p in after], [p["loss"] for p in after])]
        for name, seeds in runs.items()
        if (after := seeds[0][1:])
    }
    figure = curves(
        shown,
        x_label="MB of messages, both ways",
        y_label="loss of test responses",
        log_x=True,
    )
    save(figure, figures / "chat-bytes")


def whole_table(runs: Mapping[str, Sequence[Point]]) -> None:
    """Print where seed 0 begins and ends, by domain."""

    def cells(point: Point) -> list[str]:
        losses = [point["loss"], *(point[f"loss_{domain}"] for domain in DOMAINS)]
        accuracy = f"{point['accuracy']:.1%}"[:-1]
        return [*(f"{loss:.3f}" for loss in losses), accuracy]

    dense = runs["dense"]
    rows = [["before", *cells(dense[0]), "", ""]]
    for name, points in runs.items():
        last = points[-1]
        fewer = "" if name == "dense" else f"{dense[-1]['mb'] / last['mb']:.0f}x"
        rows.append([NAMES[name], *cells(last), f"{last['mb']:.1f}", fewer])
    head = ["run", "loss", *DOMAINS, "token accuracy, %", "MB", "times fewer"]
    table(head, rows, "Seed 0, after 20 rounds: loss of test responses")


def seeds_table(runs: Runs) -> None:
    """Print the shortened version: each seed, and the spread against dense."""

    def at(name: str, round: int) -> list[Point]:
        return [
            next(point for point in runs[name][seed] if point["round"] == round)
            for seed in sorted(runs[name])
        ]

    def losses(points: Sequence[Point]) -> list[float]:
        return [point["loss"] for point in points]

    def spread(values: Sequence[float]) -> str:
        return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    before, dense = losses(at("dense", 0)), at("dense", SHORT)
    each = ", ".join(f"{loss:.3f}" for loss in before)
    rows = [["before", each, "", "", "", ""]]
    for name, label in NAMES.items():
        points = at(name, SHORT)
        fell = [old - new for old, new in zip(before, losses(points), strict=True)]
        above = [
            own - other
            for own, other in zip(losses(points), losses(dense), strict=True)
        ]
        each = ", ".join(f"{loss:.3f}" for loss in losses(points))
        spent, other = (fmean(p["mb"] for p in group) for group in (points, dense))
        compared = name != "dense"
        rows.append(
            [
                label,
                each,
                spread(fell),
                spread(above) if compared else "",
                f"{spent:.1f}",
                f"{other / spent:.0f}x" if compared else "",
            ]
        )
    head = ["run", "loss, seeds 0, 1, 2", "fell by", "above dense", "MB", "times fewer"]
    title = f"Three seeds, after {SHORT} rounds; mean (lowest to highest seed)"
    table(head, rows, title)
