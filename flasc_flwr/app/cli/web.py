"""The live page of a run that is under way, for ``run --web``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from flasc_flwr.app.cli.progress import Progress
from flasc_flwr.app.reporting.watch.live_report import LiveReport
from flasc_flwr.app.reporting.watch.server import serving

_EVERY = 3.0
# An open page asks every 2 seconds; it gets the last report before the server ends.
_LAST = 5.0


@contextmanager
def page_of(progress: Progress) -> Iterator[str]:
    """Serve a run's report in the background, and yield its address.

    At the end, a page that is open is given up to 5 seconds to fetch the last report.

    Parameters
    ----------
    progress : Progress
        The run; the page follows its folder as soon as it has one on this machine.
    """
    live = LiveReport([])
    ended = Event()

    def wait() -> bool:
        over = ended.wait(_EVERY)
        live.paths = [progress.folder] if progress.folder else []
        if over:
            live.look()
        return over

    thread = Thread(target=live.follow, args=(wait,), daemon=True)
    with serving(live) as address:
        thread.start()
        try:
            yield address
        finally:
            ended.set()
            thread.join()
            _until_fetched(live)


def _until_fetched(live: LiveReport) -> None:
    until = time.monotonic() + _LAST
    while live.is_open(_LAST) and time.monotonic() < until:
        if live.sent == live.report.version:
            return
        time.sleep(0.1)
