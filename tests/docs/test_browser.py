"""The site and the live page in a real browser."""

import subprocess
import sys

import pytest

from flasc_flwr.app.reporting.watch import server
from flasc_flwr.app.reporting.watch.live_report import LiveReport, Report
from tests.docs.browser import measured, needs_chromium, opened
from tests.end_to_end.processes import ROOT

pytestmark = needs_chromium

_PAGE = "<!doctype html><style></style><body><main>{}</main></body>"


def test_the_live_page_refreshes_itself(tmp_path, monkeypatch):
    live = LiveReport([])
    live.report = Report(1, _PAGE.format("before"), "round 1", "")
    shown = server.live_page

    def then_changed(report):
        page = shown(report)
        live.report = Report(2, _PAGE.format("after"), "round 2", "")
        return page

    monkeypatch.setattr(server, "live_page", then_changed)
    with server.serving(live) as address:
        dom, console = opened(address, tmp_path, seconds=10)
    assert console == []
    assert "<main>after</main>" in dom and "Live: round 2" in dom


@pytest.mark.exhaustive
def test_the_site_has_no_errors_and_fits_every_screen(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    site = tmp_path / "site"
    command = (sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(site))
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("index.html"))
    assert len(pages) > 25
    found, console = measured(site, pages, [1280, 390], tmp_path / "profile")
    assert console == []
    assert len(found) == 2 * len(pages)
    assert [row for row in found if row[2] > row[1] or row[3]] == []
