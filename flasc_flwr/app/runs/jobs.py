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

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import read_summary
from flasc_flwr.app.reporting.summary import failure
from flasc_flwr.core.json_lines import as_json

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
    thread.

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
    for name, status in _run(
        {name: job for name, job in jobs.items() if name not in done},
        into,
        app,
        at_once,
    ):
        found = finished(into / name)
        if status or found is None:
            words = _last_words(into / name / "log")
            # A run that was killed has not logged it.
            killed = f"killed by {Signals(-status).name}; " if status < 0 else ""
            failed.append(f"{name}: {killed}{words}")
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
    if note.is_file() and json.loads(note.read_text()) != what:
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings (see {note.name}): "
            "choose another folder, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(as_json(what, indent=1) + "\n")


def _run(
    jobs: Mapping[str, Job], into: Path, app: Path, at_once: int
) -> Iterator[tuple[str, int]]:
    """Run jobs; yield the name and exit status of each as it ends."""
    waiting = dict(jobs)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = next(iter(waiting))
                running[name] = _start(waiting.pop(name), into / name, app)
            for name, process in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[name]
                    yield name, status
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


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
    command += ["--app", str(app), "--clients", str(job.clients)]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
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
