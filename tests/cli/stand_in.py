"""A stand-in for Flower: a run whose log is given."""

import os
import signal

from flasc_flwr.app.cli.superlink import StartError

RUN_ID = 77
LOG = """\
\x1b[92mINFO \x1b[0m:      Starting Flower Simulation
\x1b[92mINFO \x1b[0m:      Starting Flasc strategy, 3 rounds:
"""


class Flower:
    """Takes the place of FlwrRun, and yields the lines of a log."""

    def __init__(self, log=LOG, listed=None, stops=True, fails=""):
        self.log, self._listed, self._stops, self._fails = log, listed, stops, fails
        self.run_id, self.stopped = None, None

    def lines(self, every):
        yield None
        if self._fails:
            raise StartError(self._fails)
        self.run_id = RUN_ID
        for line in self.log.splitlines(keepends=True):
            if line.startswith("Ctrl-C"):
                raise KeyboardInterrupt
            if line.startswith("SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
            yield line

    def listed(self):
        return self._listed or {}

    def stop(self):
        self.stopped = self.run_id
        return self._stops
