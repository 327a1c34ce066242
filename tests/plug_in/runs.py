"""Runs of the apps in this folder, with and without SparseTransport."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.local_grid import LocalGrid

APPS = Path(__file__).parent / "apps"
EXAMPLE = Path(__file__).parents[2] / "examples" / "plug-in" / "cnn_client.py"
NODES = 4
LOSSLESS = {"download_density": 1, "upload_density": 1, "values": "float32"}


def source(name: str) -> str:
    """Return the source of an app without its lines about this project."""
    if name != "cnn":
        return (APPS / f"{name}.py").read_text()
    text = EXAMPLE.read_text().replace("from flasc_flwr import flasc_mod\n", "")
    return text.replace("ClientApp(mods=[flasc_mod])", "ClientApp()")


def load(name: str, mods=()) -> SimpleNamespace:
    """Execute an app's source with only its list of mods changed."""
    before, after = "app = ClientApp()\n", "app = ClientApp(mods=MODS)\n"
    text = source(name)
    assert text.count(before) == 1
    space = {"__name__": name, "MODS": list(mods)}
    exec(compile(text.replace(before, after), name, "exec"), space)
    return SimpleNamespace(**space)


def run(name, strategy, *, mods=(), rounds=2, transport=None):
    """Run an app under a strategy, in a SparseTransport if its settings are given."""
    random.seed(0)
    np.random.seed(0)
    if transport is not None:
        strategy = SparseTransport(strategy, **transport)
        mods = [flasc_mod, *mods]
    app = load(name, mods)
    result = strategy.start(
        LocalGrid(app.app, NODES),
        app.initial_arrays(),
        rounds,
        evaluate_fn=app.central_evaluate,
    )
    return strategy, result
