"""A report as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from flasc_flwr.app.reporting.cells import cells, megabytes, percent
from flasc_flwr.app.reporting.comparison import Group, compare, group, in_words
from flasc_flwr.app.reporting.figures import save
from flasc_flwr.app.reporting.run_figures import Shown, all_figures
from flasc_flwr.app.reporting.runs import Run

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1rem; color: #1b1b1b;
  background: #fff; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .3rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; max-width: 75ch; }
.scroll { overflow-x: auto; border: 1px solid #d5d5d5; border-radius: 6px; }
.scroll:focus-visible { outline: 3px solid #0072B2; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { padding: .35rem .5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e3e3e3; font-variant-numeric: tabular-nums; }
th { background: #f3f5f7; }
tr:last-child td { border-bottom: 0; }
td.words, th.words { text-align: left; white-space: normal; min-width: 9rem; }
.figures { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: .8rem; border: 1px solid #d5d5d5; border-radius: 6px; }
figure img { display: block; width: 100%; height: auto; margin: .4rem 0; }
figcaption, .small { font-size: .85rem; color: #444; }
@media (max-width: 30rem) { body { padding: .6rem; } figure { padding: .4rem; } }
.warning { border-left: 4px solid #D55E00; padding: .3rem .8rem; background: #fdf3ec; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$lead</p>
$warning
<h2>Comparison</h2>
$comparison
<p class="small">Means over the seeds, with the least and the most; accuracy is of the
test part, as clients receive the adapter. MB are 10<sup>6</sup> bytes of whole
messages. Densities are the fraction of the entries sent. "Less than dense": than
4 bytes for every parameter of every adapter sent.</p>
$differing
<h2>Figures</h2>
<div class="figures">
$figures
</div>
<h2>Runs</h2>
$runs
</main>
</body>
</html>
""")


def write_report(runs: Sequence[Run], out: Path, target: float | None = None) -> None:
    """Write the page, and beside it a folder with its figures as SVG and PNG.

    Parameters
    ----------
    runs : Sequence[Run]
        What it tells about; those that failed or are not finished are told as such.
    out : Path
        The page's file; the figures go to ``STEM-figures/`` beside it.
    target : float, optional
        An accuracy: the table tells the MB until it was first reached.
    """
    groups = group(runs)
    folder = out.with_name(f"{out.stem}-figures")
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = [_figure(shown, folder) for shown in all_figures(groups)]
    page = _PAGE.substitute(
        title="flasc-flwr report",
        lead=escape(_lead(runs, len(groups))),
        warning=_warning(runs),
        comparison=_table([cells(row) for row in compare(groups, target)], ("runs",)),
        differing=_differing(groups),
        figures="\n".join(figures),
        runs=_table([_of_run(run) for run in runs], ("folder", "ended")),
    )
    out.write_text(page, encoding="utf-8")


def _lead(runs: Sequence[Run], groups: int) -> str:
    counts = Counter(run.status for run in runs)
    states = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    kinds = "one kind" if groups == 1 else f"{groups} kinds"
    return (
        f"{len(runs)} run{'s' if len(runs) != 1 else ''} ({states}) of {kinds}: "
        "runs of one kind differ in their seed alone."
    )


def _differing(groups: Sequence[Group]) -> str:
    """Return a table of the settings in which the groups differ."""
    if len(groups) < 2:
        return ""
    rows = [
        {"runs": group.label} | {k: _word(v) for k, v in group.differing.items()}
        for group in groups
    ]
    return (
        f"<details><summary>What differs</summary>{_table(rows, ('runs',))}</details>"
    )


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(in_words(density) for density in value)
    return "-" if value is None else str(value)


def _warning(runs: Iterable[Run]) -> str:
    others = [run for run in runs if run.status != "finished"]
    if not others:
        return ""
    lines = "".join(
        f"<li>{escape(run.folder.name)}: {escape(run.ended)}</li>" for run in others
    )
    return (
        '<div class="warning"><p><strong>Not finished:</strong> shown as far as they '
        f"came, and never mixed with finished ones.</p><ul>{lines}</ul></div>"
    )


def _of_run(run: Run) -> dict[str, str]:
    rows, _ = run.known("accuracy")
    sent = run.megabytes[-1] if run.megabytes else None
    failures = sum(len(row["failures"]) for row in run.history)
    return {
        "folder": str(run.folder),
        "seed": str(run.config.seed),
        "rounds": f"{run.rounds} of {run.config.num_server_rounds}",
        "accuracy": percent(rows[-1]["accuracy"] if rows else None),
        "MB": megabytes(sent),
        "failures": str(failures),
        "seconds": f"{run.total('seconds'):.0f}",
        "ended": run.ended,
    }


def _table(rows: Sequence[Mapping[str, str]], words: tuple[str, ...]) -> str:
    """Return a table that scrolls by itself where the page is narrow."""

    def line(kind: str, row: Mapping[str, str]) -> str:
        tags = (
            f'<{kind} class="{"words" if name in words else "number"}">'
            f"{escape(text)}</{kind}>"
            for name, text in row.items()
        )
        return f"<tr>{''.join(tags)}</tr>"

    head = line("th", {name: name for name in rows[0]})
    body = "\n".join(line("td", row) for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead>{head}</thead>\n<tbody>{body}</tbody></table></div>"
    )


def _figure(shown: Shown, folder: Path) -> str:
    title, caption = escape(shown.title), escape(shown.caption)
    if shown.figure is None:
        picture = "<p>No run here has recorded this.</p>"
    else:
        svg, _ = save(shown.figure, folder / shown.name)
        data = base64.b64encode(svg.read_bytes()).decode()
        picture = f'<img alt="{title}" src="data:image/svg+xml;base64,{data}">'
    return (
        f'<figure id="{shown.name}"><h3>{title}</h3>{picture}'
        f"<figcaption>{caption}</figcaption></figure>"
    )
