"""The live page: the report, one line about its state, and a script that refreshes."""

from __future__ import annotations

from html import escape

from flasc_flwr.app.reporting.watch.live_report import Report
from flasc_flwr.core.printable import printable

SCRIPT = """
"use strict";
const line = document.getElementById("live");
let shown = Number(line.dataset.version);
async function look() {
  let text;
  try {
    const state = await (await fetch("state")).json();
    text = state.text;
    if (state.version !== shown) {
      const page = await (await fetch(".")).text();
      const fresh = new DOMParser().parseFromString(page, "text/html");
      // The details that are open stay open, and the page stays where it is.
      const open = [...document.querySelectorAll("details")].map((d) => d.open);
      for (const part of ["style", "main"])
        document.querySelector(part).replaceWith(fresh.querySelector(part));
      document.querySelectorAll("details").forEach((d, i) => { d.open = !!open[i]; });
      shown = state.version;
    }
  } catch (error) {
    text = "Not connected: the command that serves this page has ended.";
  }
  if (line.textContent !== text) line.textContent = text;
  setTimeout(look, 2000);
}
setTimeout(look, 2000);
"""

STYLE = """
#live { position: sticky; top: 0; margin: 0 0 .5rem; padding: .3rem .6rem;
  max-width: none; background: #e8f1f8; border-left: 4px solid #0072B2; z-index: 1; }
"""

_EMPTY = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>flasc-flwr</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem; }</style>
</head>
<body>
<main><h1>flasc-flwr</h1><p>No run yet. This page refreshes by itself.</p></main>
</body>
</html>
"""


def live_page(report: Report) -> str:
    """Return the page of a report, with the line and the script.

    The script replaces ``main``, and the style, which a page without runs has not; the
    line is outside of both.
    """
    page = report.page or _EMPTY
    line = (
        f'<p id="live" role="status" data-version="{report.version}">'
        f"{escape(state_text(report))}</p>"
    )
    page = page.replace("</style>", f"{STYLE}</style>", 1)
    page = page.replace("<body>", f"<body>\n{line}", 1)
    return page.replace("</body>", f"<script>{SCRIPT}</script>\n</body>", 1)


def state_text(report: Report) -> str:
    """Return one line about the report's state."""
    shown = [one for one in (report.state, report.problem) if one]
    return f"Live: {printable('; '.join(shown))}"
