"""A headless Chromium, driven by its DevTools protocol over a pipe.

Chromium reads commands from file descriptor 3 and answers on 4, each a JSON text that
ends in a zero byte (https://chromedevtools.github.io/devtools-protocol/). The standard
library is enough for that: neither a driver nor a websocket is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
SECONDS = 60

_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--hide-scrollbars", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
# Puts the pipes where Chromium expects them, and becomes Chromium.
_LAUNCH = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_ABOVE_4 = 10  # lowest number of the pipes' descriptors in the launcher


class BrowserError(Exception):
    """Raised if the browser ends, does not answer in time, or refuses a command."""


class Page:
    """One page of a browser.

    Attributes
    ----------
    console : list[str]
        What pages wrote to the console, errors of scripts and failed requests included.
    """

    def __init__(self, read: int, write: int) -> None:
        self.console: list[str] = []
        self._read, self._write = read, write
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded: set[str] = set()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)

    def resize(self, width: int, height: int = 800, *, scale: float = 1) -> None:
        """Set the size of the window, in CSS pixels, and the pixels for each."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        self._call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)

    def open(self, address: str) -> None:
        """Open an address, and wait until everything it names is loaded."""
        found = self._call("Page.navigate", url=address)
        if "errorText" in found:
            raise BrowserError(f"cannot open {address}: {found['errorText']}")
        until = time.monotonic() + SECONDS
        while found["loaderId"] not in self._loaded:
            self._receive(until, f"{address} to load")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, script: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(script):
            if time.monotonic() > until:
                text = self.evaluate("document.body.innerText")
                raise BrowserError(f"waited in vain for {script}; the page: {text}")
            time.sleep(0.05)

    def picture(self, *, whole: bool = False) -> bytes:
        """Return a picture of the window, or of the whole page, as PNG."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            answer = self._receive(until, method)
            if answer.get("id") == number:
                break
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        """Return the next message, after noting what it says about the page."""
        while b"\0" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise BrowserError(f"waited {SECONDS} seconds in vain for {what}")
            if not (new := os.read(self._read, 1 << 16)):
                raise BrowserError(f"the browser ended before {what}")
            self._buffer += new
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Page.lifecycleEvent" and said["name"] == "load":
            self._loaded.add(said["loaderId"])
        elif method == "Runtime.consoleAPICalled":
            words = (str(arg.get("value", arg)) for arg in said["args"])
            self.console.append(" ".join(words))
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            shown = details.get("exception", {}).get("description", details["text"])
            self.console.append(shown)
        elif method == "Log.entryAdded":
            entry = said["entry"]
            self.console.append(f"{entry['text']} {entry.get('url', '')}".strip())


@contextmanager
def browser() -> Iterator[Page]:
    """Start a browser with a new profile, and yield its page.

    Raises
    ------
    BrowserError
        If there is neither Chromium nor Chrome.
    """
    if CHROMIUM is None:
        raise BrowserError(f"needs one of {', '.join(NAMES)}")
    ours, theirs = os.pipe(), os.pipe()
    pipes = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE_4) for fd in (ours[0], theirs[1])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            (
                *(sys.executable, "-c", _LAUNCH, *map(str, pipes), CHROMIUM),
                *(*_OPTIONS, f"--user-data-dir={profile}", "about:blank"),
            ),
            pass_fds=pipes,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (*pipes, ours[0], theirs[1]):
            os.close(fd)
        try:
            page = Page(theirs[0], ours[1])
            yield page
        finally:
            os.close(ours[1])
            os.close(theirs[0])
            process.terminate()
            process.wait(SECONDS)
