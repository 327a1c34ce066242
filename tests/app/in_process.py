"""Jobs without a process each: importing torch costs more than a short run."""

import tomllib
import traceback
from dataclasses import dataclass

from flasc_flwr.app.runs.jobs import write_profile
from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.app.tasks.task import load_task


@dataclass(frozen=True)
class Ended:
    """Takes the place of a process that has ended."""

    returncode: int
    stdin = None

    def poll(self):
        return self.returncode


def start(job, folder, app):
    """Run a job in this process; takes the place of ``jobs._start``."""
    settings = tomllib.loads(write_profile(job, folder).read_text())
    load_task.cache_clear()
    try:
        run_locally(app, settings, job.clients)
    except Exception:
        (folder / "log").write_text(traceback.format_exc())
        return Ended(1)
    return Ended(0)
