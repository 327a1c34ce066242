"""One process at a time writes to a run's folder."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path

from filelock import FileLock, Timeout

from flasc_flwr.flower.compat import log

FILE = ".in-use"
"""The file that a process locks while it writes to the folder."""


class RunInUseError(ValueError):
    """Another process writes to the run's folder."""


def hold(folder: Path) -> FileLock:
    """Lock a run's folder, until the lock is released or this process ends.

    Two that resume the same run would mix their rounds in one history, and a private
    one would be charged for half of its releases.

    Parameters
    ----------
    folder : Path
        The run's folder. Where its file system has no locks, the log says so.

    Returns
    -------
    FileLock
        The lock; it is released when it is no longer used.

    Raises
    ------
    RunInUseError
        If another process has locked it.
    """
    lock = FileLock(folder / FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunInUseError(
            f"run folder {str(folder)!r} is in use: the run in it still goes on, in "
            "another process. Wait for its end, or stop that process"
        ) from error
    except (OSError, NotImplementedError) as error:
        log(
            WARNING,
            "The run's folder cannot be locked (%s): do not resume this run while it "
            "goes on",
            type(error).__name__,
        )
    return lock


def hold_job(folder: Path) -> FileLock:
    """Lock a job's folder; no run may go on in it, as one without its sweep could.

    Raises
    ------
    RunInUseError
        If another sweep makes this job, or one of its runs goes on.
    """
    lock = hold(folder)
    try:
        for run in folder.glob(f"*/{FILE}"):
            hold(run.parent).release()
    except RunInUseError:
        lock.release()
        raise
    return lock
