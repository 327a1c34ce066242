"""``flasc-flwr watch``: the report while runs go on, for this machine only."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit

import pytest

from docs.tools import screenshots
from flasc_flwr.app.cli import superlink, web
from flasc_flwr.app.reporting.watch.live_report import LiveReport, Report
from flasc_flwr.app.reporting.watch.page import live_page
from flasc_flwr.app.reporting.watch.server import serving
from tests.cli import stand_in
from tests.docs.browser import needs_chromium
from tests.end_to_end.processes import wait_until


def get(address, path="", **headers):
    """Return status, headers and text; `path` is relative to the address."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("GET", parts.path + path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def state(address):
    return json.loads(get(address, "state")[2])


def add_row(run, number):
    """Add a row, as a round that ends does; the unfinished run has half of one."""
    file = run / "history.jsonl"
    lines = file.read_text().splitlines()[:-1]
    row = json.loads(lines[-1]) | {"round": number, "accuracy": 0.875}
    file.write_text("\n".join([*lines, json.dumps(row)]) + "\n")


@pytest.fixture
def live(unfinished):
    found = LiveReport([unfinished])
    found.look()
    return found


def test_the_page_follows_a_run(live, unfinished):
    with serving(live) as address:
        first = state(address)
        assert "round 2 of 3" in first["text"]
        status, _, page = get(address)
        assert status == 200 and "unfinished: 2 of 3 rounds" in page
        assert not live.look()  # nothing has changed
        assert state(address) == first
        add_row(unfinished, 3)
        assert live.look()
        second = state(address)
        assert second["version"] == first["version"] + 1
        assert "round 3 of 3, accuracy 87.5%" in second["text"]
        assert "unfinished: 3 of 3 rounds" in get(address)[2]
        (unfinished / "summary.json").write_text('{"ended": "all rounds done"}')
        live.look()
        assert "all have ended" in state(address)["text"]


def test_a_folder_may_be_empty_at_first(tmp_path, runs):
    live = LiveReport([tmp_path / "later"])
    live.look()
    with serving(live) as address:
        assert "No run yet" in get(address)[2]
        assert state(address)["text"] == "Live: no run yet"
        runs["flasc-0"].rename(tmp_path / "later")
        live.look()
        assert "Comparison" in get(address)[2]


def test_what_cannot_be_read_keeps_the_last_page(live, unfinished):
    before = live.report.page
    config = (unfinished / "config.toml").read_text()
    (unfinished / "config.toml").write_text("lora-rank = 'a\x1b[31m'\n<b>")
    live.look()
    assert live.report.page == before
    page = live_page(live.report)
    assert "not readable now: " in page and "\x1b" not in page and "<b>" not in page
    (unfinished / "config.toml").write_text(config)
    live.look()
    assert live.report.problem == ""


def test_only_the_token_opens_it(live):
    with serving(live) as address, serving(live) as other:
        assert len(urlsplit(address).path.strip("/")) >= 32
        assert urlsplit(address).path != urlsplit(other).path
        root = "http://" + urlsplit(address).netloc
        short = address[:-2] + "/"
        for wrong in (root + "/", root + "//", root + "/x/", short, address + "x"):
            status, headers, text = get(wrong)
            assert (status, text) == (404, "Not found.\n"), wrong
            assert headers["Content-Security-Policy"]
        assert get(root + urlsplit(other).path)[0] == 404


def test_only_this_machine_reaches_it(live):
    with serving(live) as address:
        port = urlsplit(address).port
        assert urlsplit(address).hostname == "127.0.0.1"
        # A site whose name points at 127.0.0.1 is another host to the browser.
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", ""):
            assert get(address, Host=host)[0] == 404, host
        assert get(address, Host=f"localhost:{port}")[0] == 200


def test_the_page_loads_nothing_and_runs_one_script(live):
    with serving(live) as address:
        _, headers, page = get(address)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert page.count("<script") == 1
    for reference in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert reference.startswith("data:"), reference


def test_a_reason_is_text_on_the_page():
    page = live_page(Report(1, problem="<script>alert(1)</script>"))
    assert page.count("<script") == 1 and "&lt;script&gt;" in page


def test_the_command_serves_until_ctrl_c(unfinished):
    command = (sys.executable, "-m", "flasc_flwr.app.cli", "watch", str(unfinished))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl+C, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        line = process.stdout.readline()
        (address,) = re.findall(r"Watching at (http://127\.0\.0\.1:\d+/\S+/)", line)
        assert get(address)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()


def test_a_run_shows_itself_on_a_page_until_it_ends(
    call, monkeypatch, out, begun, runs
):
    """``run --web``: the page follows the run's folder, and gets the last report."""
    monkeypatch.setattr(web, "_EVERY", 0.05)
    addresses, pages = [], []

    @contextmanager
    def noted(live):
        with serving(live) as address:
            addresses.append(address)
            yield address

    class Watched(stand_in.Flower):
        def lines(self, every):
            yield from super().lines(every)
            (address,) = addresses
            pages.append(get(address)[2])
            folder = begun(runs["flasc-0"])
            ended = (folder / "summary.json").read_text()
            (folder / "summary.json").unlink()
            until = time.monotonic() + 60
            while "round 3 of 3" not in state(address)["text"]:
                assert time.monotonic() < until
                time.sleep(0.1)
                yield None
            (folder / "summary.json").write_text(ended)
            Thread(target=refresh, args=(address,)).start()

    def refresh(address):  # as an open page does
        wait_until(lambda: "all have ended" in state(address)["text"], "the end", 60)
        pages.append(get(address)[2])

    monkeypatch.setattr(web, "serving", noted)
    monkeypatch.setattr(superlink, "FlwrRun", lambda *given: Watched())
    result = call("run", "--web", "-c", f"output-dir='{out}'")
    assert result.exit_code == 0
    (address,) = addresses
    assert result.stdout.startswith(f"Watch it at {address}\n")
    before, after = pages
    assert "No run yet" in before and "1 run (1 finished)" in after
    with pytest.raises(ConnectionRefusedError):
        get(address)


@needs_chromium
@pytest.mark.exhaustive
def test_the_pictures_of_the_documentation_can_be_taken_again(runs, tmp_path):
    into = tmp_path / "pictures"
    into.mkdir()
    assert screenshots.pictures(runs["flasc-0"].parent, into) == []
    assert sorted(file.name for file in into.iterdir()) == [
        *("live-page-phone.png", "live-page.png"),
        *("report-page-phone.png", "report-page.png"),
    ]


def test_a_run_without_web_opens_no_port(call, monkeypatch, out, begun, runs):
    monkeypatch.setattr(superlink, "FlwrRun", lambda *given: stand_in.Flower())
    monkeypatch.setattr(web, "serving", None)
    begun(runs["flasc-0"])
    result = call("run", "-c", f"output-dir='{out}'")
    assert result.exit_code == 0 and "http" not in result.output


def test_a_file_is_not_a_folder(call, unfinished):
    result = call("watch", unfinished / "config.toml")
    assert result.exit_code == 1
    assert "FOLDER must be a folder, got the file" in result.stderr


def test_a_port_that_is_taken_is_an_error(call, live, unfinished):
    with serving(live) as address:
        port = urlsplit(address).port
        result = call("watch", unfinished, "--port", port)
    assert result.exit_code == 1
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in (
        result.stderr
    )
