"""Run the app in one process, without Ray and without a SuperLink.

The same ServerApp and ClientApp as with ``flwr run``, one client after the other. Every
message is serialized and rebuilt, so the bytes are those of a simulation. Many such
runs fit on one machine; a single large run is faster with ``flwr run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.toml_file import read_app
from flasc_flwr.flower.compat import load_app
from flasc_flwr.flower.local_grid import LocalGrid


def run_locally(app: Path, settings: Mapping[str, Any], clients: int) -> None:
    """Run an app's ServerApp against its ClientApp, in this process.

    Parameters
    ----------
    app : Path
        Folder of the app, with its ``pyproject.toml``.
    settings : Mapping[str, Any]
        Settings that override the defaults of the run config, kebab-case keys.
    clients : int
        Number of clients.

    Raises
    ------
    ConfigError
        If the settings are not valid.
    ValueError
        If the folder is not a Flower app.
    """
    config = RunConfig.parse(settings).to_dict()
    components = _components(app)
    serverapp, clientapp = (
        load_app(components[kind], ValueError, app) for kind in components
    )
    grid = LocalGrid(clientapp, clients, run_config=config, log_errors=True)
    context = Context(
        run_id=0,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config=config,
    )
    serverapp(grid=grid, context=context)


def _components(app: Path) -> dict[str, str]:
    """Return the import paths, ``module:object``, of an app's two components."""
    components = read_app(app).get("components", {})
    found = {kind: components.get(kind) for kind in ("serverapp", "clientapp")}
    for kind, place in found.items():
        if not isinstance(place, str):
            raise ValueError(
                f"{str(app)!r} is not a Flower app: [tool.flwr.app.components] in its "
                f"pyproject.toml must have {kind!r} as 'module:object', got {place!r}"
            )
    return found
