"""Tables and figures of docs/results.md and docs/privacy.md, from committed results."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import chat_tables
from reproduce_results import Curve, Point, Setting, at, first, read, stays
from reproduce_runs import ALPHAS
from reproduce_seeds import budgets, costs
from reproduce_tables import percent, table

from flasc_flwr.app.reporting.figures import curves, save
from flasc_flwr.app.runs.link_times import Link

MARGIN = 0.005
MEGABYTES = "MB of messages, both ways"
# In the figures: with all of them these cannot be read.
SHOWN = {
    "news": (
        "dense",
        "dense-int4-decay",
        "rank2-int4-decay",
        "rank4-int4-decay",
        "flasc-4-4-int8",
        "flasc-16-16-int8",
        "rank4-flasc-2-4-int4-decay",
        "rank2-flasc-2-4-int4-decay",
    ),
    "digits": (
        "dense",
        "rank1",
        "rank4",
        "flasc4-int8",
        "flasc16-int8",
        "flasc64-int8",
        "sparse-adapter4",
        "adapter-lth4",
    ),
}

Settings = Mapping[str, Setting]
Reach = Callable[[Curve, float], Point | None]


def bytes_table(
    runs: Settings,
    targets: Sequence[float],
    reach: Reach,
    title: str,
    base: str = "dense",
) -> None:
    """Print the MB until each accuracy, and how many times fewer than `base`."""
    compared = runs[base].curve if base in runs else []
    rows = []
    for name, setting in runs.items():
        curve = setting.curve
        cells = [name, str(curve[-1].round), percent(setting.last)]
        for target in targets:
            own, other = reach(curve, target), reach(compared, target)
            cell = f"{own.megabytes:.1f} (round {own.round})" if own else "-"
            if own and other and name != base:
                cell += f", {other.megabytes / own.megabytes:.1f}x"
            cells.append(cell)
        rows.append(cells)
    head = ["run", "rounds", "last accuracy, %", *(f"{t:.1%}" for t in targets)]
    table(head, rows, title)


def bytes_figure(runs: Settings, shown: Sequence[str], stem: Path) -> None:
    """Draw accuracy against MB from the first step on."""
    accuracy_figure(
        {name: runs[name] for name in runs if name in shown},
        stem,
        MEGABYTES,
        in_megabytes,
        since=1,
        log_x=True,
    )


def in_megabytes(point: Point) -> float:
    """Return where a point is on the axis of bytes."""
    return point.megabytes


def accuracy_figure(
    runs: Settings,
    stem: Path,
    x_label: str,
    x: Callable[[Point], float],
    *,
    since: int = 0,
    log_x: bool = False,
) -> None:
    """Draw accuracy from the round `since` on, a band over the seeds."""
    figure = curves(
        {
            name: [
                (
                    [x(p) for p in curve if p.round >= since],
                    [p.accuracy for p in curve if p.round >= since],
                )
                for curve in setting.seeds
            ]
            for name, setting in runs.items()
        },
        x_label=x_label,
        y_label="test accuracy",
        log_x=log_x,
        y_percent=True,
    )
    save(figure, stem)


def news(runs: Settings, figures: Path) -> None:
    """Figures 2 and 3 on 20NewsGroups + MiniLM, and the headline."""
    target = fmean(runs["dense"].last) - MARGIN
    bytes_table(
        runs,
        (0.60, 0.65, 0.70, 0.72, 0.75, target),
        first,
        "MB of messages, both ways, until an accuracy was first reached",
    )
    bytes_table(runs, (target,), stays, f"The same until it stays at {target:.1%}")
    bytes_figure(runs, SHOWN["news"], figures / "news-bytes")
    slower_uploads(runs)


def slower_uploads(runs: Settings) -> None:
    """Print figure 3: seconds of communication to 70 %, by the slower upload."""
    ways = (1, 4, 16)
    rows = []
    for name, setting in runs.items():
        point = first(setting.curve, 0.7)
        if point is None:
            continue
        # Clients of a round receive and send alike: each has an even part.
        down, up = (
            int(part / setting.cohort / point.round) for part in (point.down, point.up)
        )
        links = [Link.slower_up(10, way, 0.05) for way in ways]
        rows.append(
            [name, *(f"{point.round * link.seconds(down, up):.0f} s" for link in links)]
        )
    table(
        ["run", *(f"upload {way}x slower" for way in ways)],
        rows,
        "Seconds of communication until 70 %: 10 Mbit/s down, 0.05 s latency",
    )


def digits(runs: Settings, figures: Path) -> None:
    """Figure 2 on the digits, and figure 4: what freezing does."""
    bytes_table(
        runs,
        (0.7, 0.8, 0.85, 0.9),
        first,
        "Digits: MB of messages, both ways, until an accuracy was first reached",
    )
    bytes_figure(runs, SHOWN["digits"], figures / "digits-bytes")


def heterogeneity(runs: Settings, figures: Path) -> None:
    """Figure 5: four times fewer parameters by rank or by density, at equal MB."""
    rows = []
    for alpha in ALPHAS:
        pair = [runs[f"{name}-alpha{alpha:g}"] for name in ("rank4", "flasc4")]
        equal = min(setting.curve[-1].megabytes for setting in pair)
        cells = [percent([at(c, equal) for c in setting.seeds]) for setting in pair]
        rows.append([f"{alpha:g}", f"{equal:.2f}", *cells])
    table(
        ["Dirichlet alpha", "MB", "rank 4, dense", "rank 16, density 1/4"],
        rows,
        "Digits: accuracy, %, at equal MB of messages",
    )


def ends(title: str, digits: int, runs: Settings, figures: Path) -> None:
    """Last accuracy and MB of runs of equal length, with some digits of the MB."""
    rows = [
        [name, percent(setting.last), f"{setting.curve[-1].megabytes:.{digits}f}"]
        for name, setting in runs.items()
    ]
    head = ["method", "last accuracy, %", "MB, both ways"]
    table(head, rows, title)


def ranks(stem: str, targets: Sequence[float], runs: Settings, figures: Path) -> None:
    """Byun & Lee: a few clients of high rank, by round and by bytes."""
    rounds = [p.round for p in next(iter(runs.values())).curve if p.round]
    rows = [
        [name, *(f"{p.accuracy:.1%}"[:-1] for p in setting.curve if p.round)]
        for name, setting in runs.items()
    ]
    head = ["run", *(f"round {number}" for number in rounds)]
    table(head, rows, "Accuracy, %, by round")
    bytes_table(
        runs,
        targets,
        first,
        "MB of messages, both ways, until an accuracy was first reached",
        base="all-rank20",
    )
    accuracy_figure(runs, figures / stem, "round", lambda point: point.round)


def cores_news(runs: Settings, figures: Path) -> None:
    """Small cores on 20NewsGroups beside rank 2: what wins at how many MB."""
    small = {name: setting for name, setting in runs.items() if name != "dense"}
    budgets(small, (2.5, 5, 10, 15, 20, 30))
    bytes_figure(small, tuple(small), figures / "cores-news-bytes")
    target = fmean(runs["dense"].last) - MARGIN
    reached = {n: s for n, s in runs.items() if first(s.curve, target)}
    bytes_table(reached, (target,), first, f"MB until {target:.1%} was first reached")
    bytes_table(reached, (target,), stays, f"The same until it stays at {target:.1%}")


def unequal(runs: Settings, figures: Path) -> None:
    """Byun & Lee with every seed: a tenth of the clients at rank 20, the rest at 5."""
    costs(runs, (0.8, 0.85))
    accuracy_figure(runs, figures / "agnews-unequal-bytes", MEGABYTES, in_megabytes)


def privacy(runs: Settings, figures: Path) -> None:
    """Accuracy at the same epsilon."""
    epsilons = ("inf", "8", "2")
    rows = []
    for name in dict.fromkeys(name.rpartition("-epsilon")[0] for name in runs):
        several = [runs[f"{name}-epsilon{epsilon}"] for epsilon in epsilons]
        spent = fmean(setting.curve[-1].megabytes for setting in several)
        rows.append([name, *(percent(s.last) for s in several), f"{spent:.0f}"])
    head = ["method", *(f"epsilon {epsilon}" for epsilon in epsilons), "MB"]
    table(head, rows, "Accuracy, %, at the same epsilon")


DRAWN = {
    "news": news,
    "digits": digits,
    "heterogeneity": heterogeneity,
    "tiers": partial(ends, "Digits: devices of three tiers", 1),
    "cores-digits": partial(ends, "Digits: small cores between fixed bases", 2),
    "cores-news": cores_news,
    "agnews": partial(ranks, "agnews-rounds", (0.7, 0.8, 0.85)),
    "agnews-unequal": unequal,
    "dbpedia": partial(ranks, "dbpedia-rounds", (0.5, 0.8, 0.9)),
    "privacy": privacy,
}
"""What draws each experiment: given its settings, and the folder of figures."""


def draw(results: Path, figures: Path) -> None:
    """Draw every experiment that has results."""
    for experiment, make in DRAWN.items():
        if runs := read(results, experiment):
            print(f"## {experiment}\n")
            make(runs, figures)
    chat_tables.draw(results / "chat-model.jsonl", figures)
