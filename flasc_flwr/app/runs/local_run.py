"""Run the app in one process, without Ray and without a SuperLink.

``flasc-flwr local-run --clients 20 "method='flasc' seed=1"`` runs the same
ServerApp and ClientApp as ``flwr run``, one client after the other. Every message is
serialized and rebuilt, so its bytes are those of a simulation. Many such runs fit on a
machine side by side; one that is large is faster with ``flwr run``.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click import ClickException
from flwr.app import Context, RecordDict

from flasc_flwr.app.config import RunConfig
from flasc_flwr.flower.compat import load_app, parse_config_args
from flasc_flwr.flower.local_grid import LocalGrid


def run_locally(app: Path, settings: Mapping[str, Any], clients: int) -> None:
    """Run an app's ServerApp against its ClientApp, in this process.

    Parameters
    ----------
    app : Path
        Folder of the app, with its ``pyproject.toml``.
    settings : Mapping[str, Any]
        What differs from the defaults of the run config, kebab-case keys.
    clients : int
        Number of clients.

    Raises
    ------
    ConfigError
        If the settings cannot be run.
    ValueError
        If the folder holds no app.
    """
    config = RunConfig.parse(settings).to_dict()
    components = _components(app)
    serverapp, clientapp = (
        load_app(components[kind], ValueError, app) for kind in components
    )
    grid = LocalGrid(clientapp, clients, run_config=config)
    context = Context(
        run_id=0,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config=config,
    )
    serverapp(grid=grid, context=context)


def _components(app: Path) -> dict[str, str]:
    """Return an app's ServerApp and ClientApp, by name of the module and object."""
    try:
        declared = tomllib.loads((app / "pyproject.toml").read_text())
        components = declared["tool"]["flwr"]["app"]["components"]
        return {kind: components[kind] for kind in ("serverapp", "clientapp")}
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{str(app)!r} is no Flower app: it needs a pyproject.toml with "
            f"[tool.flwr.app.components] ({error!r})"
        ) from None


def main(arguments: list[str]) -> int:
    """Run the app, or say what is wrong.

    Parameters
    ----------
    arguments : list[str]
        The command line's.

    Returns
    -------
    int
        Exit status: 0 if the run ended as it should.
    """
    parser = argparse.ArgumentParser(prog="python -m flasc_flwr.app.runs.local_run")
    parser.add_argument("config", nargs="*", help='like "seed=1", or a profile')
    parser.add_argument("--app", type=Path, default=Path(), help="the app's folder")
    parser.add_argument("--clients", type=int, default=20, help="how many")
    given = parser.parse_args(arguments)
    try:
        settings = parse_config_args(given.config)
        run_locally(given.app.resolve(), settings, given.clients)
    except (ClickException, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
