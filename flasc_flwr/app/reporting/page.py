"""A report as one HTML page that works offline, without a script.

Its text is in ``templates``; this module collects what the templates show. Flower's app
bundle leaves such files out, so reports are made with the installed package.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flasc_flwr.app.reporting.cells import cells, megabytes, percent
from flasc_flwr.app.reporting.comparison import compare
from flasc_flwr.app.reporting.figures import save
from flasc_flwr.app.reporting.groups import Group, group, in_words
from flasc_flwr.app.reporting.run_figures import Shown, all_figures
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.app.reporting.side_by_side import side_by_side


def write_report(
    runs: Sequence[SavedRun], out: Path, target: float | None = None
) -> None:
    """Write the page, and beside it a folder with its figures as SVG and PNG.

    Parameters
    ----------
    runs : Sequence[SavedRun]
        The runs to show; those that failed or have not finished are listed as such.
    out : Path
        The page's file; the figures go to ``STEM-figures/`` beside it.
    target : float, optional
        An accuracy: the table shows the MB until it was first reached.
    """
    groups = group(runs)
    folder = out.with_name(f"{out.stem}-figures")
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter(run.status for run in runs)
    page = _template().render(
        states=", ".join(f"{counts[status]} {status}" for status in sorted(counts)),
        groups=len(groups),
        not_finished=[run for run in runs if run.status != "finished"],
        warned=[run for run in runs if run.warnings],
        comparison=[cells(row) for row in compare(groups, target)],
        differing=[_differing(g) for g in groups] if len(groups) > 1 else [],
        figures=[_figure(shown, folder) for shown in all_figures(groups)],
        answers=[shown for run in runs if (shown := side_by_side(run))],
        runs=[_of_run(run) for run in runs],
    )
    out.write_text(page, encoding="utf-8")


def _template() -> Any:
    # Names and reasons in a run may come from others: all of them are escaped.
    environment = Environment(
        loader=PackageLoader("flasc_flwr.app.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html")


def _differing(one: Group) -> dict[str, str]:
    """Return the settings in which a group differs from the others."""
    return {"runs": one.label} | {k: _word(v) for k, v in one.differing.items()}


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(in_words(density) for density in value)
    return "-" if value is None else str(value)


def _of_run(run: SavedRun) -> dict[str, str]:
    rows, _ = run.known("accuracy")
    sent = run.megabytes[-1] if run.megabytes else None
    return {
        "folder": str(run.folder),
        "seed": str(run.config.seed),
        "rounds": f"{run.rounds} of {run.config.num_server_rounds}",
        "accuracy": percent(rows[-1]["accuracy"] if rows else None),
        "MB": megabytes(sent),
        "failures": "-" if run.failures is None else str(run.failures),
        "seconds": "-" if run.seconds is None else f"{run.seconds:.0f}",
        "ended": run.ended,
    }


def _figure(shown: Shown, folder: Path) -> dict[str, str]:
    """Save a figure, and return what the page shows of it; ``svg`` is in base64."""
    data = b""
    if shown.figure is not None:
        svg, _ = save(shown.figure, folder / shown.name)
        data = base64.b64encode(svg.read_bytes())
    return {
        "name": shown.name,
        "title": shown.title,
        "caption": shown.caption,
        "svg": data.decode(),
    }
