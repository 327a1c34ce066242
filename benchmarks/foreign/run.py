"""Run one foreign app once, in this process, and write what came of it.

A program of foreign_apps.py: an app's modules, caches and generators are one process's.
"""

import importlib
import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flwr.clientapp
from flwr.app import Context, RecordDict
from flwr.common.config import flatten_dict
from flwr.serverapp.strategy import Result

from flasc_flwr import SparseTransport, flasc_mod
from foreign import stand_ins
from foreign.app import App
from foreign.grid import CountingGrid, seed_all_of
from foreign.models import resolve


def run(
    app: App, folder: Path, *, lines: bool, seed: int, transport: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the app's own ServerApp and ClientApp.

    Parameters
    ----------
    app : App
        The app.
    folder : Path
        Its source.
    lines : bool
        Whether the two lines are applied.
    seed : int
        Seed of the server's and all clients' generators.
    transport : Mapping[str, Any]
        Arguments of SparseTransport other than its defaults.

    Returns
    -------
    dict[str, Any]
        The row of this run.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    stand_ins.install(project["project"]["dependencies"])
    if any(str(value).startswith("llm:") for value in app.config.values()):
        stand_ins.install_unquantized()
    sys.path.insert(0, str(folder))
    settings = project["tool"]["flwr"]["app"]
    own = flatten_dict(settings["config"])
    changed = {k: resolve(v, folder.parents[1]) for k, v in app.config.items()}
    config = own | changed
    if lines:
        add_mod()
    components = settings["components"]
    client_app = named(components["clientapp"])
    server_module = importlib.import_module(components["serverapp"].split(":")[0])
    results: list[Result] = []
    constructed = getattr(server_module, app.strategy)
    wrapped = with_transport(constructed, transport, results) if lines else None
    setattr(server_module, app.strategy, wrapped or recording(constructed, results))
    seed_all_of(seed)
    grid = CountingGrid(client_app, app.nodes, config, seed)
    context = Context(0, 0, {}, RecordDict(), dict(config))
    named(components["serverapp"])(grid, context)
    if len(results) != 1:
        raise RuntimeError(
            f"{app.strategy} of {server_module.__name__} must be started once, "
            f"got {len(results)} starts"
        )
    return row(app, results[0], grid, config)


def add_mod() -> None:
    """Give every ClientApp that is made from now on flasc_mod, as its first mod."""
    plain = flwr.clientapp.ClientApp

    class WithMod(plain):  # type: ignore[misc, valid-type]
        """ClientApp(mods=[flasc_mod, ...])."""

        def __init__(self, client_fn: Any = None, mods: Any = None) -> None:
            super().__init__(client_fn, mods=[flasc_mod, *(mods or [])])

    flwr.clientapp.ClientApp = WithMod


def with_transport(
    strategy: type, transport: Mapping[str, Any], results: list[Result]
) -> Callable[..., SparseTransport]:
    """Return what constructs the strategy inside SparseTransport."""

    def construct(*args: Any, **kwargs: Any) -> SparseTransport:
        outer = recording(SparseTransport, results)
        return outer(strategy(*args, **kwargs), **transport)

    return construct


def recording(strategy: type, results: list[Result]) -> Any:
    """Return a subclass whose ``start`` adds its result to the list."""

    def start(self: Any, *args: Any, **kwargs: Any) -> Result:
        result = strategy.start(self, *args, **kwargs)  # type: ignore[attr-defined]
        results.append(result)
        return result

    return type(strategy.__name__, (strategy,), {"start": start})


def named(reference: str) -> Any:
    """Return the object of ``module:name``."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def row(
    app: App, result: Result, grid: CountingGrid, config: dict[str, Any]
) -> dict[str, Any]:
    kind, _, name = app.metric.partition(":")
    by_kind = {
        "server": result.evaluate_metrics_serverapp,
        "clients": result.evaluate_metrics_clientapp,
        "train": result.train_metrics_clientapp,
    }
    by_round = {r: m[name] for r, m in by_kind.get(kind, {}).items() if name in m}
    if app.evaluation:
        value = float(named(app.evaluation)(result.arrays, config))
    else:
        value = float(by_round[max(by_round)])
    return {
        "value": value,
        "by_round": [round(float(v), 6) for v in by_round.values()],
        "parameters": sum(array.numpy().size for array in result.arrays.values()),
        "rounds": config["num-server-rounds"],
        "down": grid.down,
        "up": grid.up,
        "calls": grid.calls,
        "call_seconds": round(grid.seconds / grid.calls, 3),
        "error_replies": len(grid.errors),
    }


def main() -> None:
    given = json.loads(sys.argv[1])
    made = run(
        App(**given["app"]),
        Path(given["folder"]),
        lines=given["lines"],
        seed=given["seed"],
        transport=given["transport"],
    )
    Path(os.environ["FOREIGN_ROW"]).write_text(json.dumps(made))


if __name__ == "__main__":
    main()
