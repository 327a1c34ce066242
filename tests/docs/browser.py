"""Pages in a headless Chromium, without a driver: its own command line is enough."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))),
    None,
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome on this machine"
)

_MEASURE = """<!doctype html><body><pre id="found"></pre><script>
const pages = PAGES, widths = WIDTHS, found = document.getElementById("found");
async function measure(page, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.src = page;
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; });
  const root = frame.contentDocument.documentElement;
  const images = [...frame.contentDocument.images];
  const broken = images.filter((i) => i.complete && !i.naturalWidth).length;
  found.append(`${page} ${width} ${root.scrollWidth} ${broken}\\n`);
  frame.remove();
}
(async () => {
  for (const page of pages) for (const width of widths) await measure(page, width);
  found.append("done");
})();
</script>"""


def opened(address: str, profile: Path, *, seconds: int = 20) -> tuple[str, list[str]]:
    """Return a page's DOM after its scripts ran, and what it wrote to the console."""
    done = subprocess.run(
        (
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}"),
            *("--disable-background-networking", "--no-first-run"),
            *(f"--virtual-time-budget={1000 * seconds}", address),
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    console = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
    return done.stdout, console


def measured(
    site: Path, pages: list[str], widths: list[int], profile: Path
) -> tuple[list[tuple[str, int, int, int]], list[str]]:
    """Open pages of a folder at some widths.

    Returns
    -------
    tuple[list[tuple[str, int, int, int]], list[str]]
        Page, width, width of its content and number of broken images, of each page and
        width; and the console's lines.
    """
    text = _MEASURE.replace("PAGES", str(pages)).replace("WIDTHS", str(widths))
    (site / "measure.html").write_text(text)
    with served(site) as address:
        dom, console = opened(f"{address}/measure.html", profile, seconds=600)
    lines = unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1])
    assert lines.endswith("done"), f"{lines}\n{console}"
    rows = [line.split() for line in lines.splitlines()[:-1]]
    return [(page, *map(int, numbers)) for page, *numbers in rows], console


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
