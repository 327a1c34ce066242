"""The run config: every key is declared once, in the dataclass that uses it.

Settings of the application are in `task`, `adapter`, `method`, `training` and `run`;
those of the library in the library's own dataclasses. `keys` lists them, `run_config`
puts them together, and ``python -m flasc_flwr.app.config.generate`` writes the block
``[tool.flwr.app.config]`` of ``pyproject.toml`` and ``docs/configuration.md`` from
them.
"""

from flasc_flwr.app.config.run import TRACKERS
from flasc_flwr.app.config.run_config import ConfigError, RunConfig
from flasc_flwr.app.config.task import HEADS, PARTITIONERS, TASKS
from flasc_flwr.app.config.training import CLIENT_OPTIMIZERS

__all__ = [
    "CLIENT_OPTIMIZERS",
    "HEADS",
    "PARTITIONERS",
    "TASKS",
    "TRACKERS",
    "ConfigError",
    "RunConfig",
]
