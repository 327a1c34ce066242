"""What an app's ``pyproject.toml`` sets otherwise than the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flasc_flwr.app.config.run_config import RunConfig
from flasc_flwr.app.config.toml_file import read_app

_OF_ONE_RUN = ("output-dir", "resume")


def settings_of_app(app: Path, *, for_many: bool = False) -> dict[str, Any]:
    """Return the settings under ``[tool.flwr.app.config]`` that are not the defaults.

    ``flwr run`` begins with them; what begins a run without Flower does so with this.

    Parameters
    ----------
    app : Path
        Folder of the app.
    for_many : bool
        For many runs, whose folders are chosen for them: without ``output-dir`` and
        ``resume``.

    Raises
    ------
    ConfigError
        If they are not valid.
    ValueError
        If the folder is not a Flower app.
    """
    declared = read_app(app).get("config", {})
    set_there, usual = RunConfig.parse(declared).to_dict(), RunConfig().to_dict()
    return {
        key: value
        for key, value in declared.items()
        if set_there[key] != usual[key] and not (for_many and key in _OF_ONE_RUN)
    }
