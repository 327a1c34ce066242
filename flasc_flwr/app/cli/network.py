"""``flasc-flwr network``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flasc_flwr.app.cli.common import RunsArgument
from flasc_flwr.app.cli.numbers import ACCURACY, BANDWIDTH, SECONDS
from flasc_flwr.core.json_lines import as_json as text_of

if TYPE_CHECKING:
    from flasc_flwr.app.reporting.runs import SavedRun
    from flasc_flwr.app.runs.link_times import Exchanges, LinkOf


def network(
    runs: RunsArgument,
    down: Annotated[
        float,
        typer.Option(
            click_type=BANDWIDTH, help="Download bandwidth of a client, Mbit/s."
        ),
    ] = 10.0,
    up_slower: Annotated[
        str,
        typer.Option(help="How many times slower uploads are; one or more values."),
    ] = "1,4,16",
    latency: Annotated[
        float,
        typer.Option(
            click_type=SECONDS,
            help="Seconds per message, whatever its size: about 6 round trips.",
        ),
    ] = 0.05,
    compute: Annotated[
        float,
        typer.Option(
            click_type=SECONDS,
            help="Seconds per client and round beside its messages: those of a round "
            "on a fast network.",
        ),
    ] = 0.0,
    target: Annotated[
        float | None,
        typer.Option(
            click_type=ACCURACY,
            help="Also show the seconds until this test accuracy, such as 0.8.",
            show_default=False,
        ),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of unequal links, instead of --down, --up-slower and "
            "--latency: tables [[link]] with download, upload and latency. If all have "
            "a share, each client draws its link; otherwise there is one per tier.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for drawing links.")] = 0,
    even_split: Annotated[
        bool,
        typer.Option(
            "--even-split",
            help="If a run has no traffic.json, split each round's bytes evenly among "
            "its clients.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the seconds of each round.")
    ] = False,
) -> None:
    """Estimate how long finished runs would take over given links.

    RUN is a run folder, or a folder that contains some, such as a sweep's. With
    --target, "first" is the time of the first evaluation at or above it,
    "stays" that of the first evaluation after which none is below it.
    """
    from flasc_flwr.app.cli.common import user_errors

    with user_errors():
        from flasc_flwr.app.reporting.exchanges import exchanges_of
        from flasc_flwr.app.reporting.runs import find_runs, read_run

        if links is None:
            settings = dict(_equal(down, up_slower, latency))
        elif even_split:
            raise ValueError(
                "--even-split cannot be combined with --links: it does not know which "
                "client sent which bytes"
            )
        else:
            settings = {links.name: read_links(links, seed)}
        results = []
        for run in [read_run(folder) for folder in find_runs(runs)]:
            exchanges = exchanges_of(run, even_split=even_split)
            results += [
                _times(run, exchanges, name, link_of, compute, target)
                for name, link_of in settings.items()
            ]
    if as_json:
        typer.echo(text_of(results, indent=1))
    else:
        _print(results, target)


def read_links(path: Path, seed: int) -> LinkOf:
    """Read a TOML file of links, and return each client's link.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold valid links.
    """
    from flasc_flwr.app.config.toml_file import read_toml
    from flasc_flwr.app.runs.link_times import Link, by_tier, drawn

    tables = read_toml(path.expanduser()).get("link")
    if (
        not isinstance(tables, list)
        or not tables
        or not all(isinstance(table, dict) for table in tables)
    ):
        raise ValueError(f"{str(path)!r} has no tables [[link]]")
    allowed = {"download", "upload", "latency", "share"}
    for table in tables:
        if unknown := table.keys() - allowed:
            raise ValueError(
                f"{str(path)!r}: keys of a link must be among "
                f"{', '.join(sorted(allowed))}, got {min(unknown)!r}"
            )
        if missing := {"download", "upload"} - table.keys():
            raise ValueError(f"{str(path)!r}: a link has no {min(missing)!r}")
    shares = [table.pop("share") for table in tables if "share" in table]
    made = [Link(**table) for table in tables]
    if not shares:
        return by_tier(made)
    if len(shares) != len(made):
        raise ValueError(
            f"{str(path)!r}: either all links or none must have a share, got "
            f"{len(shares)} of {len(made)}"
        )
    return drawn(made, shares, seed)


def _equal(down: float, up_slower: str, latency: float) -> Iterator[tuple[str, LinkOf]]:
    """Yield a name and a link shared by all clients, for each upload factor."""
    from flasc_flwr.app.runs.link_times import Link, same

    for word in up_slower.split(","):
        try:
            factor = float(word)
        except ValueError:
            raise ValueError(
                "up-slower must be numbers separated by commas, such as 1,4,16, got "
                f"{up_slower!r}"
            ) from None
        link = Link.slower_up(down, factor, latency)
        yield f"{link.download:g} / {link.upload:g} Mbit/s", same(link)


def _times(
    run: SavedRun,
    exchanges: Exchanges,
    name: str,
    link_of: LinkOf,
    compute: float,
    target: float | None,
) -> dict[str, Any]:
    """Return the times of one run over one set of links."""
    from flasc_flwr.app.runs.link_times import elapsed, seconds_to

    rounds = [row["round"] for row in run.history]
    seconds = elapsed(rounds, exchanges, link_of, compute=compute)
    accuracies = [row.get("accuracy") for row in run.history]
    result = {
        "run": str(run.folder),
        "links": name,
        "rounds": run.rounds,
        "megabytes": run.megabytes[-1],
        "seconds": seconds[-1],
        "by_round": {"round": rounds, "seconds": seconds, "accuracy": accuracies},
    }
    if target is not None:
        reached = seconds_to(target, accuracies, seconds)
        result["target"] = target
        result["first"], result["stays"] = reached.first, reached.stays
    return result


def _print(results: Sequence[Mapping[str, Any]], target: float | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flasc_flwr.app.reporting.cells import exact_percent
    from flasc_flwr.core.printable import printable

    table = Table(title="Seconds of communication")
    table.add_column("run", overflow="fold")
    table.add_column("download / upload")
    for column in ("rounds", "MB", "whole run"):
        table.add_column(column, justify="right")
    if target is not None:
        table.add_column(f"first {exact_percent(target)}", justify="right")
        table.add_column(f"stays at {exact_percent(target)}", justify="right")
    for result in results:
        cells: list[Text | str] = [
            Text(printable(Path(result["run"]).name)),
            Text(printable(result["links"])),
            str(result["rounds"]),
            f"{result['megabytes']:.2f}",
            _seconds(result["seconds"]),
        ]
        if target is not None:
            cells += [_seconds(result["first"]), _seconds(result["stays"])]
        table.add_row(*cells)
    console = Console()
    # Do not wrap the table in a file or a pipe.
    (console if console.is_terminal else Console(width=200)).print(table)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
