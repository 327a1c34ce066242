"""Runs of instruction tuning in one process, and the command line."""

from typer.testing import CliRunner

import client_app
from flasc_flwr.app.cli import app
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.flower.local_grid import LocalGrid
from tests.app.test_apps import run
from tests.app.tiny import settings_of

ROUNDS = 3


def simulate(out, **settings):
    config = settings_of(**settings)
    load_task.cache_clear()
    grid = LocalGrid(client_app.app, 2, run_config=config)
    return run(out, grid, **{k.replace("-", "_"): v for k, v in config.items()})


def call(*words, text=None):
    load_task.cache_clear()
    return CliRunner().invoke(app, [str(word) for word in words], input=text)
