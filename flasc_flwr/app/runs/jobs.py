"""Many runs in one folder, several at a time: for sweeps, searches and benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import tomli_w
from filelock import FileLock

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_files import read_summary
from flasc_flwr.app.reporting.run_folder import write_json
from flasc_flwr.app.reporting.run_lock import RunInUseError, hold_job
from flasc_flwr.app.reporting.summary import failure

_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to make.

    Attributes
    ----------
    settings : Mapping[str, Any]
        Settings that override the defaults of the run config; not ``output-dir`` and
        ``resume``, which :func:`run_jobs` sets.
    clients : int
        Number of clients.
    """

    settings: Mapping[str, Any]
    clients: int


class JobError(RuntimeError):
    """Runs failed; the message names them, the reasons, and the logs."""


def finished(folder: Path) -> Path | None:
    """Return the run folder of a finished job; None if it has not finished."""
    for path in sorted(folder.glob("*/summary.json")):
        if failure(read_summary(path.parent)) is None:
            return path.parent
    return None


def run_jobs(
    jobs: Mapping[str, Job],
    into: Path,
    *,
    app: Path,
    at_once: int = 1,
    on_end: Callable[[str, Path], None] | None = None,
) -> dict[str, Path]:
    """Make each run that has not finished yet, and return all run folders.

    Each job has its folder ``into/NAME``, with the log. An interrupted run resumes from
    its newest checkpoint. Each run is a ``flasc-flwr local-run`` process with one
    thread, which ends with this one. A job that another process makes has failed here.

    Parameters
    ----------
    jobs : Mapping[str, Job]
        The jobs by name; a name must be a valid file name.
    into : Path
        Output directory.
    app : Path
        Folder of the app.
    at_once : int
        Number of runs at a time.
    on_end : Callable[[str, Path], None], optional
        Called with the name and the run folder of each run that finishes.

    Raises
    ------
    ConfigError
        If a job's settings are not valid; nothing has been started.
    ValueError
        If a folder holds a run with other settings.
    JobError
        If runs failed; the others were still made.
    """
    for job in jobs.values():
        RunConfig.parse(job.settings)
    for name, job in jobs.items():
        _claim(into / name, job)
    done = {name: found for name in jobs if (found := finished(into / name))}
    failed = []
    for name, wrong in _run(
        {name: job for name, job in jobs.items() if name not in done},
        into,
        app,
        at_once,
    ):
        found = finished(into / name)
        if wrong or found is None:
            failed.append(f"{name}: {wrong or _last_words(into / name / 'log')}")
            continue
        done[name] = found
        if on_end:
            on_end(name, found)
    if failed:
        raise JobError(
            f"{len(failed)} of {len(jobs)} runs failed; logs in {into}/NAME/log:\n  "
            + "\n  ".join(failed)
        )
    return {name: done[name] for name in jobs}


def _claim(folder: Path, job: Job) -> None:
    """Record which job a folder belongs to, so that no other job reuses it."""
    what = {"clients": job.clients, "settings": dict(job.settings)}
    note = folder / "job.json"
    if note.is_file():
        try:
            same = json.loads(note.read_text()) == what
        except ValueError as error:
            raise ValueError(f"{str(note)!r} cannot be read: {error}") from None
        if not same:
            raise ValueError(
                f"{str(folder)!r} holds a run with other settings (see {note.name}): "
                "choose another folder, or remove it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, what)


def _run(
    jobs: Mapping[str, Job], into: Path, app: Path, at_once: int
) -> Iterator[tuple[str, str | None]]:
    """Run jobs; yield the name of each as it ends, and what went wrong, if it did."""
    waiting = dict(jobs)
    running: dict[str, tuple[subprocess.Popen[bytes], FileLock]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = next(iter(waiting))
                try:
                    begun = _begin(waiting.pop(name), into / name, app)
                except RunInUseError as error:
                    yield name, str(error)
                    continue
                if begun:
                    running[name] = begun
                else:
                    yield name, None
            for name, (process, lock) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    lock.release()
                    yield name, _wrong(process, into / name / "log")
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, lock in running.values():
            process.wait()
            lock.release()


def _begin(
    job: Job, folder: Path, app: Path
) -> tuple[subprocess.Popen[bytes], FileLock] | None:
    """Lock a job's folder and start its run; None if another sweep has finished it.

    Raises
    ------
    RunInUseError
        As :func:`.hold_job`.
    """
    lock = hold_job(folder)
    if finished(folder):
        lock.release()
        return None
    return _start(job, folder, app), lock


def _wrong(process: subprocess.Popen[bytes], log: Path) -> str | None:
    """Return what went wrong in a process that has ended; None if nothing did."""
    if process.stdin:
        process.stdin.close()
    status = process.returncode
    if not status:
        return None
    # A run that was killed has not logged it.
    killed = f"killed by {Signals(-status).name}; " if status < 0 else ""
    return killed + _last_words(log)


def write_profile(job: Job, folder: Path) -> Path:
    """Write a job's settings as a profile; with a checkpoint, it resumes."""
    settings = {**job.settings, "output-dir": str(folder.resolve())}
    if list(folder.glob("*/checkpoints/*")):
        settings["resume"] = "latest"
    profile = folder / "config.toml"
    profile.write_text(tomli_w.dumps(settings))
    return profile


def _start(job: Job, folder: Path, app: Path) -> subprocess.Popen[bytes]:
    profile = write_profile(job, folder)
    command = [sys.executable, "-m", "flasc_flwr.app.cli", "local-run", str(profile)]
    command += ["--app", str(app), "--clients", str(job.clients), "--end-with-stdin"]
    with (folder / "log").open("ab") as log:
        # The pipe ends with this process, however that ends, and the run with it.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _last_words(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "the log is empty")
    return "the log is empty"
