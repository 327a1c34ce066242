"""The site and the live page in a real browser."""

import re
import subprocess
import sys

import pytest

from docs.tools.browser import BrowserError, browser
from flasc_flwr.app.reporting.watch import server
from flasc_flwr.app.reporting.watch.live_report import LiveReport, Report
from tests.docs.browser import measured, needs_chromium
from tests.end_to_end.processes import ROOT, Flower, stop

pytestmark = needs_chromium

_PAGE = "<!doctype html><style></style><body><main>{}</main></body>"
_LINE = "document.getElementById('live').innerText"
_HEAD = '<!doctype html><link rel="icon" href="data:,">{}<body>{}'
_PHONE = '<meta name="viewport" content="width=device-width">'


def test_the_live_page_refreshes_itself():
    live = LiveReport([])
    live.report = Report(1, _PAGE.format("before"), "round 1", "")
    with server.serving(live) as address, browser() as page:
        page.open(address)
        assert page.evaluate("document.querySelector('main').innerText") == "before"
        live.report = Report(2, _PAGE.format("after"), "round 2", "")
        page.wait_for("document.querySelector('main').innerText == 'after'")
        assert page.evaluate("document.getElementById('live').innerText") == (
            "Live: round 2"
        )
        assert page.console == []


def test_the_measure_finds_what_is_wrong(tmp_path):
    pages = {
        "wide.html": (_PHONE, "<div style='width:600px'>x"),
        "fits.html": (_PHONE, "x"),
        "not-for-phones.html": ("", "x"),
        "broken.html": (_PHONE, "<img src='x.png'><script>nowhere()</script>"),
    }
    for name, parts in pages.items():
        (tmp_path / name).write_text(_HEAD.format(*parts))
    found, console = measured(tmp_path, list(pages), [390])
    assert [shown.content > 390 for shown in found] == [True, False, True, False]
    assert [shown.broken for shown in found] == [0, 0, 0, 1]
    assert len(console) == 2  # the picture and the script
    assert "x.png" in "".join(console) and "nowhere is not defined" in "".join(console)


def test_a_wait_in_vain_is_an_error():
    with browser() as page:
        with pytest.raises(BrowserError, match="waited in vain for 1 == 2"):
            page.wait_for("1 == 2", seconds=0.1)
        with pytest.raises(BrowserError, match="cannot open http://127.0.0.1:9/"):
            page.open("http://127.0.0.1:9/")


@pytest.mark.exhaustive
def test_the_site_has_no_errors_and_fits_every_screen(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    site = tmp_path / "site"
    command = (sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(site))
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("index.html"))
    assert len(pages) > 25
    found, console = measured(site, pages, [1280, 390])
    assert console == []
    assert [shown for shown in found if shown.content > shown.width] == []
    assert [shown for shown in found if shown.broken] == []


@pytest.mark.exhaustive
def test_a_run_is_seen_in_a_browser_from_its_start_to_its_end(tmp_path):
    flower = Flower(tmp_path / "flwr")
    settings = f"num-server-rounds=2 local-epochs=1 output-dir='{tmp_path / 'runs'}'"
    command = (sys.executable, "-m", "flasc_flwr.app.cli", "run", str(ROOT), "--web")
    process = subprocess.Popen(
        (*command, "--clients", "2", "--run-config", settings),
        env=flower.env | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        (address,) = re.findall(r"Watch it at (http://127\.0\.0\.1:\d+/\S+/)", line)
        with browser() as page:
            page.resize(390)
            page.open(address)
            assert "No run yet" in page.evaluate("document.body.innerText")
            page.wait_for(f"{_LINE}.includes(': round ')", seconds=300)
            page.wait_for(f"{_LINE}.includes('all have ended')", seconds=300)
            assert page.evaluate("document.querySelectorAll('main img').length") > 3
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.console == []
        assert process.wait(timeout=60) == 0
    finally:
        stop(process.pid)
        flower.stop_local_superlink()
