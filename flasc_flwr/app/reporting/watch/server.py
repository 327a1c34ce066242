"""A small HTTP server for the live page: this machine only, and only with the token.

Other users of the machine and pages of other sites can reach a port on loopback. They
do not know the token, which is in the path. Requests that name another host are refused
too, so that a site cannot point its own name at 127.0.0.1 and read the page.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from flasc_flwr.app.reporting.watch.live_report import LiveReport
from flasc_flwr.app.reporting.watch.page import SCRIPT, live_page, state_text
from flasc_flwr.core.json_lines import as_json

HOST = "127.0.0.1"
_SECONDS = 10


def _digest(text: str) -> str:
    found = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(found).decode()}'"


HEADERS = {
    "Cache-Control": "no-store",
    # Nothing is loaded but what is in the page; only this script runs.
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {_digest(SCRIPT)}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@contextmanager
def serving(live: LiveReport, port: int = 0) -> Iterator[str]:
    """Serve the live page in the background, and yield its address.

    Parameters
    ----------
    live : LiveReport
        What to serve.
    port : int
        The port; 0 takes one that is free.

    Raises
    ------
    OSError
        If the port is taken; names it.
    """
    try:
        server = _Server(live, port)
    except OSError as error:
        raise OSError(
            f"port {port} of {HOST} cannot be used: {error.strerror}; with --port 0, "
            "a free one is taken"
        ) from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.daemon = True
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/{server.token}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SECONDS
    server_version = "flasc-flwr"
    sys_version = ""

    def do_GET(self) -> None:
        what = self._asked() if self._is_ours() else None
        live = self.server.live
        report = live.report
        if what == "":
            self._answer(200, "text/html", live_page(report))
            live.sent = report.version
        elif what == "state":
            live.note_question()
            state = {"version": report.version, "text": state_text(report)}
            self._answer(200, "application/json", as_json(state))
        else:
            self._answer(404, "text/plain", "Not found.\n")

    def _is_ours(self) -> bool:
        """Return whether the request names this machine as the host."""
        port = self.server.server_port
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _asked(self) -> str | None:
        """Return what comes after the token; None if the token is wrong."""
        given, _, what = self.path.removeprefix("/").partition("/")
        right = secrets.compare_digest(given.encode(), self.server.token.encode())
        return what if right else None

    def _answer(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal is for the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A second server on the same port would take some of the requests.
    allow_reuse_port = False

    def __init__(self, live: LiveReport, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.live = live
        self.token = secrets.token_urlsafe(24)
