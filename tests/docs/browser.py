"""Pages in a real browser, served on loopback."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from docs.tools.browser import CHROMIUM, browser

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome on this machine"
)

_MEASURE = """[
  document.documentElement.scrollWidth,
  [...document.images].filter((i) => i.complete && !i.naturalWidth).length,
]"""


class Shown(NamedTuple):
    """A page at one width: of its content, and how many of its images are broken."""

    page: str
    width: int
    content: int
    broken: int


def measured(
    site: Path, pages: Sequence[str], widths: Sequence[int]
) -> tuple[list[Shown], list[str]]:
    """Open pages of a folder at some widths; return them, and the console's lines."""
    with served(site) as address, browser() as page:
        found = []
        for width in widths:
            page.resize(width)
            for name in pages:
                page.open(f"{address}/{name}")
                found.append(Shown(name, width, *page.evaluate(_MEASURE)))
        return found, page.console


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
