"""A run of a sweep ends with the sweep, also when that is killed."""

from __future__ import annotations

import os
import signal
from threading import Thread


def end_with(stream: int) -> None:
    """End this process when a stream ends; return at once.

    Parameters
    ----------
    stream : int
        A file descriptor, such as 0 for stdin: a pipe that only the sweep can write to,
        and which ends with it.
    """

    def wait() -> None:
        # Not through sys.stdin: Python's exit would wait for its lock.
        while os.read(stream, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()
